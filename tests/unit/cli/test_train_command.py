"""`anatobench train` from the command line."""

import json
import os
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept_checkpoints import newest_checkpoint
from numpy_engine import Measured, NumpyEngine, use_numpy_engines
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.recipes import Recipe, paper_recipe
from anatobench.store.batch import Batch
from anatobench.store.reader import Store, index_content
from anatobench.tasks import multi_label_task
from anatobench.training.checkpoints import read_best
from anatobench.training.run_folder import RunConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def arguments(store: Store, run: Path, *more: str) -> list[str]:
    return ["train", "--task", "findings", "--store", str(store.root), "--model", "r3d_18", "--framework", "torch",
            "--out", str(run), "--set", "batch_size=2", "--epochs", "2", *more]  # fmt: skip


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_trains_with_the_papers_recipe_and_what_is_set(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(store, tmp_path / "run", "--set", "learning_rate=0.05", "--json")) == 0
    out = capsys.readouterr().out.strip().splitlines()
    figures = json.loads(out[-1])
    assert (figures["steps"], figures["epochs"], figures["framework"]) == (8, 2, "torch")
    assert set(figures["best"]) == {"step", "auc_macro"}
    config = RunConfig.read(tmp_path / "run")
    paper = paper_recipe(FINDINGS, "r3d_18")
    assert config.recipe == replace(paper, batch_size=2, epochs=2, learning_rate=0.05)
    assert (config.task, config.size, config.segmentation) == (FINDINGS, "tiny", True)
    assert Path(config.store) == store.root
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_next_command_can_be_copied_into_a_shell(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "own plain"
    assert main(arguments(store, run)) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert shlex.split(said.partition("; next: ")[2]) == ["anatobench", "evaluate", str(run)]


def test_without_segmentation_the_weight_is_zero_and_the_head_is_gone(tmp_path: Path, store: Store) -> None:
    assert main(arguments(store, tmp_path / "run", "--no-seg")) == 0
    config = RunConfig.read(tmp_path / "run")
    assert (config.segmentation, config.recipe.segmentation_weight) == (False, 0.0)
    assert "segmentation_head.weight" not in newest_checkpoint(tmp_path / "run").weights


def test_a_stopped_run_exits_with_130_and_resumes_from_its_folder_alone(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = NumpyEngine.train_step

    def stop_at_three(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batch, rate, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(NumpyEngine, "train_step", stop_at_three)
        assert main(arguments(store, tmp_path / "run")) == 130
    assert last_line(capsys) == (
        "anatobench train: stopped by SIGTERM after step 3 of 8, which is saved: "
        "give the same command with --resume to go on"
    )
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 8


def test_a_run_goes_on_where_its_steps_cannot_be_compiled(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert main(arguments(store, run, "--set", "compile=true")) == 0
    built = []
    build = NumpyEngine.__init__

    def note(self: NumpyEngine, spec: ModelSpec, recipe: Recipe, *more: Any) -> None:
        built.append(recipe)
        build(self, spec, recipe, *more)

    monkeypatch.setattr(NumpyEngine, "__init__", note)
    resume = ["train", "--resume", "--out", str(run), "--set", "compile=false"]
    assert main(resume) == 0
    assert main([*resume, "--set", "fast=false"]) == 0
    assert [(recipe.compile, recipe.fast, recipe.epochs) for recipe in built] == [
        ("false", "auto", 2),
        ("false", "false", 2),
    ]
    assert main([*resume, "--set", "fast=quick"]) == 2
    assert main([*arguments(store, run, "--resume"), "--set", "learning_rate=1"]) == 1
    assert "recipe.learning_rate: 0.0001 -> 1.0" in last_line(capsys)


def test_a_validation_split_without_a_score_is_said_once_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = multi_label_task("findings", "chest", ("a", "b", "c", "d", "e"))
    lacking = write_store(tmp_path / "store", task, {"train": 8, "validation": 1, "test": 2})
    assert main(arguments(lacking, tmp_path / "run")) == 0
    said = capsys.readouterr()
    assert said.err.count("undefined") == 1
    assert (
        "epoch 1: validation AUC undefined: in the validation split no finding has both values "
        "(no positive of a, b, c and 2 more)"
    ) in said.err
    assert "8 steps, no validation score, so the last checkpoint stands for the run; next: " in said.out
    assert read_best(tmp_path / "run").progress.step == 8


def test_another_framework_goes_on_only_when_allowed(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(store, run)) == 0
    switch = ["train", "--resume", "--out", str(run), "--framework", "jax"]
    assert main(switch) == 1
    assert "--switch-framework" in last_line(capsys)
    assert main([*switch, "--switch-framework", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["framework"] == "jax"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "learning_rat=1"], "write field=value with one of objective, epochs"),
        (["--set", "batch_size=x"], "'x' is not a whole number"),
        (["--set", "batch_size=9"], "8 training cases, too few for one batch of 9"),
        (["--set", "precision=int4"], "precision='int4': choose one of fp64, fp32, tf32, bf16"),
        (["--set", "warmup_steps=99"], "warmup_steps=99 leaves nothing"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert main(arguments(store, tmp_path / "run", *change)) == 2
    assert message in last_line(capsys)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_missing_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path), "--model", "r3d_18"]) == 2
    assert "--task, --store, --framework: missing" in last_line(capsys)
    assert main(["train", "--out", str(tmp_path), "--resume", "--model", "r3d_18"]) == 2
    said = f"{tmp_path}: no run here to go on with, and a new one lacks --task, --store, --framework: is --out right?"
    assert last_line(capsys) == f"anatobench train: {said}"


def test_a_run_that_exists_is_named_to_who_forgets_to_resume(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(store, tmp_path / "run")) == 0
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'run'}: holds a run: add --resume to go on with it" in last_line(capsys)


@pytest.mark.parametrize("choice", [["--model", "resnet"], ["--framework", "tensorflow"]])
def test_unknown_choices_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--out", str(tmp_path), *choice])
    assert exit_.value.code == 2
    assert "invalid choice" in last_line(capsys)


def test_failures_exit_with_1_and_one_line(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [*arguments(store, tmp_path / "a"), "--store", str(tmp_path / "nowhere")]
    assert main(missing) == 1
    assert "is not a store" in last_line(capsys)
    assert main([*arguments(store, tmp_path / "a"), "--task", "ratic"]) == 1
    assert "prepared for task findings, not ratic" in last_line(capsys)
    assert main(arguments(store, tmp_path / "a", "--size", "full")) == 1
    assert "is a store of size tiny" in last_line(capsys)
    assert not (tmp_path / "a").exists()
    assert main(arguments(store, tmp_path / "b", "--steps", "2")) == 0
    assert main(arguments(store, tmp_path / "b", "--steps", "2")) == 1
    assert "add --resume" in last_line(capsys)
    assert main(arguments(store, tmp_path / "b", "--steps", "3", "--resume")) == 1
    assert "max_steps: 2 -> 3" in last_line(capsys)


def test_help_needs_no_framework(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "jax"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--help"])
    assert exit_.value.code == 0
    assert "goes on as if nothing had happened" in capsys.readouterr().out


def test_a_copy_of_the_store_is_read_and_the_store_remembered(tmp_path: Path, store: Store) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    assert main([*arguments(store, tmp_path / "run"), "--store-copy", str(copy)]) == 0
    assert RunConfig.read(tmp_path / "run").store == str(store.root)
    next(copy.glob("cases/*.safetensors")).unlink()
    assert main([*arguments(store, tmp_path / "other"), "--store-copy", str(copy)]) == 1


def test_a_copy_of_another_store_is_refused(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    first, *others = store.cases
    changed = replace(first, split="validation" if first.split == "train" else "train")
    (copy / "index.json").write_bytes(index_content([changed, *others]))
    assert main([*arguments(store, tmp_path / "run"), "--store-copy", str(copy)]) == 1
    assert "is not a copy of" in capsys.readouterr().err


@pytest.mark.parametrize("restated", [["--steps", "2"], ["--set", "batch_size=4"], ["--epochs", "1", "--no-seg"]])
def test_a_run_that_exists_is_not_asked_for_what_it_knows(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str], restated: list[str]
) -> None:
    assert main(arguments(store, tmp_path / "run")) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), *restated]) == 2
    line = last_line(capsys)
    assert restated[0] in line
    assert "leave that out" in line
    assert "missing" not in line


def test_a_task_that_there_is_not_is_told_the_stores(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(store, tmp_path / "run"), "--task", "findigns"]) == 1
    assert "prepared for task findings, not findigns: give --task findings" in last_line(capsys)
