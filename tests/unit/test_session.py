"""A training run as one call."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from child_processes_of_tests import finish
from kept_checkpoints import newest_checkpoint
from numpy_engine import NumpyEngine, use_numpy_engines
from tiny_store import FINDINGS, SMALL_FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.session import Introduction, configure, train_run
from anatobench.store.reader import Store
from anatobench.training.run_folder import RunConfig, begun, locked

SETTINGS = ("batch_size=2", "epochs=2", "learning_rate=0.05")
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), SMALL_FINDINGS)


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


@pytest.fixture
def config(store: Store) -> RunConfig:
    return configure(store.root, "r3d_18", "torch", SETTINGS)


def words(store: Store, run: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "--task", "findings", "--store", str(store.root), "--model", "r3d_18", "--framework", "torch",
            "--out", str(run), *settings, *more]  # fmt: skip


def test_it_prints_nothing_and_returns_what_became_of_the_run(
    tmp_path: Path, config: RunConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = train_run(tmp_path / "run", config)
    assert capfd.readouterr() == ("", "")
    assert (outcome.steps, outcome.epochs, outcome.framework, outcome.device["kind"]) == (8, 2, "torch", "cpu")
    assert outcome.best is not None
    assert newest_checkpoint(tmp_path / "run").progress.step == 8
    with pytest.raises(FrozenInstanceError):
        outcome.steps = 9  # type: ignore[misc]


def test_the_command_line_trains_the_same_and_prints_the_outcome(
    tmp_path: Path, store: Store, config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train_run(tmp_path / "library", config).to_json()
    assert main(words(store, tmp_path / "command", "--json")) == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert list(printed) == ["run", "steps", "epochs", "best", "framework", "device", "seconds"]
    different = {"run", "seconds"}
    assert {k: v for k, v in printed.items() if k not in different} == {
        k: v for k, v in outcome.items() if k not in different
    }
    assert "r3d_18 (tiny) on findings with torch on test: 8 training cases, with segmentation" in said.err
    assert "epoch 2: validation" in said.err
    library, command = (newest_checkpoint(tmp_path / name) for name in ("library", "command"))
    assert {n: a.tobytes() for n, a in library.weights.items()} == {n: a.tobytes() for n, a in command.weights.items()}


def test_whoever_wants_to_know_is_told(tmp_path: Path, config: RunConfig) -> None:
    told: list[Introduction] = []
    train_run(tmp_path / "run", replace(config, max_steps=3), introduce=told.append)
    (introduction,) = told
    assert (introduction.training_cases, introduction.with_mask, introduction.total_steps) == (8, 4, 3)
    assert introduction.validated
    assert str(introduction).endswith("with segmentation supervision of the 4 of them that have a mask, 3 steps of 2")


def test_a_full_size_model_on_a_cpu_is_warned_of(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = write_store(tmp_path / "full", sizes={"train": 2}, size="full")
    said: list[str] = []
    train_run(tmp_path / "tiny_run", replace(config, max_steps=1), say=said.append)
    assert said == []
    whole = configure(full.root, "r3d_18", "torch", SETTINGS, max_steps=1)
    train_run(tmp_path / "full_run", whole, say=said.append)
    (warning,) = said
    assert "full-size model on a CPU, batch_size=2" in warning
    assert "--size tiny, or train with --set batch_size=1" in warning
    device = {**NumpyEngine(whole.spec, whole.recipe).device(), "kind": "gpu"}
    monkeypatch.setattr(NumpyEngine, "device", lambda engine: device)
    train_run(tmp_path / "on_a_gpu", whole, say=said.append)
    assert said == [warning]


def test_the_store_is_opened_once(tmp_path: Path, store: Store, config: RunConfig, monkeypatch: Any) -> None:
    opened: list[Path] = []
    open_store = Store.open

    def note(path: Path) -> Store:
        opened.append(Path(path))
        return open_store(path)

    monkeypatch.setattr(Store, "open", note)
    assert main(words(store, tmp_path / "command")) == 0
    assert opened == [store.root]
    train_run(tmp_path / "library", config, store=store)
    assert opened == [store.root]


def test_it_trains_in_a_thread_which_hears_no_signals(tmp_path: Path, config: RunConfig) -> None:
    done = []
    thread = threading.Thread(target=lambda: done.append(train_run(tmp_path / "run", config)))
    thread.start()
    thread.join(60)
    assert [outcome.steps for outcome in done] == [8]


def test_what_goes_wrong_is_one_of_the_projects_errors(tmp_path: Path, store: Store, config: RunConfig) -> None:
    other = write_store(tmp_path / "other", replace(FINDINGS, name="others"))
    with pytest.raises(AnatoBenchError, match="prepared for task others, the run is for task findings"):
        train_run(tmp_path / "run", config, store=other)
    with pytest.raises(UsageError, match="too few for one batch of 9"):
        train_run(tmp_path / "run", configure(store.root, "r3d_18", "torch", ["batch_size=9"]))
    with pytest.raises(AnatoBenchError, match="is not a store"):
        configure(tmp_path, "r3d_18", "torch")
    assert not (tmp_path / "run").exists()
    train_run(tmp_path / "run", config)
    with pytest.raises(AnatoBenchError, match="holds this run already"):
        train_run(tmp_path / "run", config)
    assert train_run(tmp_path / "run", config, resume=True).steps == 8


def test_who_is_refused_has_written_nothing(tmp_path: Path, config: RunConfig) -> None:
    run = tmp_path / "run"
    with begun(run, config, resume=False):  # as another process that has just begun
        before = (run / "config.json").read_bytes()
        with pytest.raises(AnatoBenchError, match="another process is training this run"):
            train_run(run, replace(config, max_steps=1))
        assert (run / "config.json").read_bytes() == before
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(AnatoBenchError, match="not empty and not a run"):
        train_run(foreign, config)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    with locked(run):
        pass  # nobody holds it any more


TOGETHER = """
import sys
sys.path.insert(0, {support!r})
import numpy_engine
import anatobench.session
anatobench.session.load_engine = lambda name, spec, recipe: numpy_engine.NumpyEngine(spec, recipe, name)
from anatobench.cli.main import main
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_of_two_that_begin_together_the_first_ones_run_is_left(tmp_path: Path, store: Store) -> None:
    for attempt in range(3):
        run = tmp_path / f"run{attempt}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TOGETHER.format(support=str(SUPPORT)),
                 *words(store, run, "--set", f"seed={seed}", "--set", "epochs=20")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for seed in (1, 2)
        ]  # fmt: skip
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = finish(processes, 60)
        assert sorted(status for status, _, _ in ended) == [0, 1], ended
        winner = next(seed for seed, (status, _, _) in zip((1, 2), ended, strict=True) if status == 0)
        assert RunConfig.read(run).recipe.seed == winner


def test_partly_annotated_masks_are_refused_where_the_rest_would_be_background(
    tmp_path: Path, store: Store, config: RunConfig
) -> None:
    organs = len(store.task.mask_classes)
    partly = replace(store.cases[store.split("train")[1]], has_mask=True, annotated=(1,) + (0,) * (organs - 1))
    index = store.split("train")[1]
    changed = replace(store, cases=(*store.cases[:index], partly, *store.cases[index + 1 :]))
    with pytest.raises(UsageError, match=r"in 1 of 8 training cases only some of the organs .* objective=partial_mask"):
        train_run(tmp_path / "run", config, store=changed)
    assert not (tmp_path / "run").exists()
    without = configure(store.root, "r3d_18", "torch", [*SETTINGS, "segmentation_weight=0"])
    assert train_run(tmp_path / "without", without, store=changed).steps > 0
