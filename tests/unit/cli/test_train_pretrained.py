"""`anatobench train --pretrained` from the command line, with an engine that needs no framework."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kinetics_files import pth_bytes, write_pth
from numpy_engine import Measured, NumpyEngine, use_numpy_engines
from safetensors import safe_open
from tiny_store import write_store

from anatobench.backbones import CARDS
from anatobench.backbones.published_weights import PYTORCH, PublishedWeights
from anatobench.cli.main import main
from anatobench.store.batch import Batch
from anatobench.store.reader import Store
from anatobench.training.pretrained import weights_file
from anatobench.training.run_folder import RunConfig

WEIGHT = np.random.default_rng(0).normal(0, 0.1, (2, 8)).astype(np.float32)
"""The numpy engine's `fc.weight`; its `fc.bias` stands for a stem."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a tiny store that says it were of size full: one of full size would take a minute to write."""
    found = write_store(tmp_path_factory.mktemp("store"))
    description = found.root / "store.json"
    description.write_text(description.read_text().replace('"tiny"', '"full"'))
    return Store.open(found.root)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a published file for the numpy engine, where `auto` finds it, and no network."""
    use_numpy_engines(monkeypatch)
    (tmp_path / "weights").mkdir()
    path = write_pth(tmp_path / "weights", "r3d_18", pth_bytes({"fc.weight": torch.from_numpy(WEIGHT)}))
    published = PublishedWeights(PYTORCH, path.name, {"fc.bias": "it stands for a stem"})
    monkeypatch.setitem(CARDS, "r3d_18", replace(CARDS["r3d_18"], published=published))
    monkeypatch.setenv("ANATOBENCH_PRETRAINED", str(path.parent))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights_file, "urlopen", no_network)
    return path


def no_network(address: str, timeout: float) -> None:
    raise OSError("no network")


def arguments(store: Store, run: Path, *more: str) -> list[str]:
    return ["train", "--task", "findings", "--store", str(store.root), "--model", "r3d_18", "--framework", "torch",
            "--out", str(run), "--set", "batch_size=2", "--epochs", "2", *more]  # fmt: skip


def initial(run: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(run / "initial.safetensors", framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("named", ["auto", "path"])
def test_a_run_begins_with_the_file_and_says_so(
    tmp_path: Path, store: Store, file: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    run = tmp_path / "run"
    assert main(arguments(store, run, "--pretrained", "auto" if named == "auto" else str(file))) == 0
    assert f"begins with {file}, SHA-256 " in capsys.readouterr().err
    weights, metadata = initial(run)
    drawn = NumpyEngine(RunConfig.read(run).spec, RunConfig.read(run).recipe).weights()
    np.testing.assert_array_equal(weights["fc.weight"], WEIGHT)
    np.testing.assert_array_equal(weights["fc.bias"], drawn["fc.bias"])
    assert metadata["pretrained"] == file.name
    assert f"-{metadata['pretrained_sha256'][:8]}.pth" in file.name
    assert RunConfig.read(run).pretrained == (file.name if named == "auto" else str(file))


def test_without_it_a_run_says_nothing_of_it(
    tmp_path: Path, store: Store, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(store, tmp_path / "run")) == 0
    assert "begins with" not in capsys.readouterr().err
    assert "pretrained" not in initial(tmp_path / "run")[1]
    assert RunConfig.read(tmp_path / "run").pretrained is None


@pytest.mark.parametrize("named", ["auto", "path"])
def test_a_resumed_run_needs_the_file_no_more(
    tmp_path: Path,
    store: Store,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    named: str,
) -> None:
    pretrained = ("--pretrained", "auto" if named == "auto" else str(file))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(arguments(store, whole, *pretrained)) == 0
    take_step = NumpyEngine.train_step

    def stop_before_the_fourth(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batch, rate, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(NumpyEngine, "train_step", stop_before_the_fourth)
        assert main(arguments(store, stopped, *pretrained)) == 130
    file.unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(stopped), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 8
    assert "begins with" not in said.err
    assert losses(stopped) == losses(whole)
    assert main(arguments(store, stopped, *pretrained, "--resume")) == 0
    assert main(arguments(store, stopped, "--resume")) == 1
    assert "holds a run with another configuration: pretrained: " in last_line(capsys)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_without_network_one_line_says_what_to_do_and_the_same_command_then_works(
    tmp_path: Path, store: Store, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = file.read_bytes()
    file.unlink()
    command = arguments(store, tmp_path / "run", "--pretrained", "auto")
    assert main(command) == 1
    assert last_line(capsys).startswith(f"anatobench train: {file.name}: not in {file.parent} or ")
    file.write_bytes(content)
    assert main(command) == 0


def test_a_file_of_another_model_is_refused(
    tmp_path: Path, store: Store, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_pth(tmp_path, "other", pth_bytes({"layer.weight": torch.ones(3)}))
    assert main(arguments(store, tmp_path / "run", "--pretrained", str(other))) == 1
    assert last_line(capsys) == (
        f"anatobench train: {other}: does not hold the arrays of {file.name}: fc.weight is missing; "
        "layer.weight is unknown"
    )


def test_both_kinds_of_weights_to_begin_with_exclude_each_other(
    tmp_path: Path, store: Store, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--pretrained", "auto", "--initial-weights", str(tmp_path / "initial.safetensors")]
    assert main(arguments(store, tmp_path / "run", *both)) == 2
    assert "--pretrained and --initial-weights exclude each other" in last_line(capsys)
    assert not (tmp_path / "run").exists()


def test_tiny_models_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_numpy_engines(monkeypatch)
    assert main(arguments(write_store(tmp_path / "tiny"), tmp_path / "run", "--pretrained", "auto")) == 2
    assert "there are no pretrained weights of size tiny" in last_line(capsys)
    assert not (tmp_path / "run").exists()
