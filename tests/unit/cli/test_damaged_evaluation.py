"""No command believes an evaluation that somebody damaged: each names the file, the field and what to do, alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import figures_of
from kept_checkpoints import begun_run
from numpy_engine import use_numpy_engines
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.experiments.auc_study import STUDY_FILE, AucStudy, name_of
from anatobench.experiments.grid import Selection
from anatobench.experiments.grid_runs import GRID_FILE, GridSettings
from anatobench.experiments.runs import keep_settings, run_folder
from anatobench.experiments.transfer import TRANSFER_FILE, TransferSelection, TransferSettings
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC, Task, get_task
from anatobench.training.run_folder import RunConfig
from anatobench.volumes.nifti import write_nifti

Made = tuple[list[str], Path, Task]
"""A command, the evaluation that it reads, and the task."""


def evaluated_run(run: Path, task: Task, framework: str = "torch") -> Path:
    """Write a run of which nothing but its configuration and evaluation is there; return the latter."""
    run.mkdir(parents=True)
    RunConfig(task, "store", framework, "r3d_18", "tiny", Recipe()).write(run / "config.json")
    (run / "metrics.jsonl").touch()
    (run / "evaluation_test.json").write_text(json.dumps(figures_of(task)))
    return run / "evaluation_test.json"


def report(folder: Path) -> Made:
    path = evaluated_run(folder / "run", FINDINGS)
    return ["report", str(path.parent), "--out", str(folder / "report.html")], path, FINDINGS


def predict(folder: Path) -> Made:
    run = begun_run(folder / "run", RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe()))
    (run / "evaluation_test.json").write_text(json.dumps(figures_of(FINDINGS)))
    write_nifti(
        folder / "scan.nii.gz", np.arange(-360, 360, dtype=np.int16).reshape(8, 9, 10), np.diag([-7.0, -4.0, 4.5, 1.0])
    )
    return (
        ["predict", str(run), str(folder / "scan.nii.gz"), "--framework", "torch"],
        run / "evaluation_test.json",
        FINDINGS,
    )


def auc(folder: Path) -> Made:
    study = AucStudy(models=("r3d_18",), seeds=1)
    keep_settings(folder / STUDY_FILE, study, "a study")
    paths = [
        evaluated_run(run_folder(folder, name_of(cell)), get_task("ct_rate"), cell.framework) for cell in study.cells
    ]
    words = ["experiments", "auc", "--collect", "--models", "r3d_18", "--seeds", "1", "--out", str(folder)]
    return words, paths[-1], get_task("ct_rate")


def grid(folder: Path) -> Made:
    keep_settings(folder / GRID_FILE, GridSettings(str(folder / "stores"), from_scratch=True), "this grid")
    selection = Selection(("1",), ("ratic",), ("r3d_18",), seeds=1, from_scratch=True)
    paths = [evaluated_run(run_folder(folder, cell.name), RATIC, cell.framework) for cell in selection.cells]
    words = ["experiments", "grid", "collect", "--tables", "1", "--datasets", "ratic", "--models", "r3d_18"]
    return [*words, "--seeds", "1", "--out", str(folder)], paths[-1], RATIC


def transfer(folder: Path) -> Made:
    store = write_store(folder / "store", FINDINGS, {"train": 2, "test": 1})
    out, settings = folder / "transfer", TransferSettings(str(store.root))
    keep_settings(out / TRANSFER_FILE, settings, "a transfer")
    (cell,) = TransferSelection(("none",), ("frozen",), (5,), ("torch",), repetitions=1).cells(settings)
    path = evaluated_run(run_folder(out, cell.name), FINDINGS)
    words = ["experiments", "transfer", "collect", "--weights", "none", "--modes", "frozen", "--counts", "5"]
    return [*words, "--frameworks", "torch", "--repetitions", "1", "--out", str(out)], path, FINDINGS


MAKERS = {"report": report, "predict": predict, "auc": auc, "grid": grid, "transfer": transfer}
DAMAGES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "null": lambda good, name: None,
    "a list": lambda good, name: [good],
    "text in place of a figure": lambda good, name: {**good, "auc": {**good["auc"], name: "0.7"}},
    "true in place of a figure": lambda good, name: {**good, "thresholds": {**good["thresholds"], name: True}},
    "NaN": lambda good, name: {**good, "auc": {**good["auc"], name: float("nan")}},
    "an infinite threshold": lambda good, name: {**good, "thresholds": {**good["thresholds"], name: float("inf")}},
    "more than there can be": lambda good, name: {**good, "sensitivity": {**good["sensitivity"], name: 10**400}},
    "a class without AUC": lambda good, name: {**good, "auc": without(good["auc"], name)},
    "no macro mean": lambda good, name: {**good, "specificity": without(good["specificity"], "macro")},
    "a class without threshold": lambda good, name: {**good, "thresholds": without(good["thresholds"], name)},
    "a class without interval": lambda good, name: {**good, "ci95": {"auc": without(good["ci95"]["auc"], name)}},
    "a list of figures": lambda good, name: {**good, "auc": [0.7]},
    "one end": lambda good, name: {**good, "ci95": {"auc": {**good["ci95"]["auc"], name: [0.6]}}},
    "text as ends": lambda good, name: {**good, "ci95": {"auc": {**good["ci95"]["auc"], name: ["0.6", "0.8"]}}},
    "one figure for all classes": lambda good, name: {**good, "specificity": 1},
    "intervals of nothing": lambda good, name: {**good, "ci95": {}},
    "text as organ Dice": lambda good, name: {**good, "organ_dice": {"macro": "high"}},
    "a rule that is none": lambda good, name: {**good, "threshold_rule": 5},
    "a step that is none": lambda good, name: {**good, "step": "3"},
    "an aggregation that is none": lambda good, name: {**good, "aggregation": ["mean"]},
    "fewer cases than none": lambda good, name: {**good, "rows": -1},
    "text as positives": lambda good, name: {**good, "positives": {**good["auc"], name: "4"}},
    "reasons that are none": lambda good, name: {**good, "undefined": ["liver"]},
}
"""What is made of good figures, one of the classes being named."""


def without(figures: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in figures.items() if each != name}


@pytest.fixture(scope="module", params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def said_of(made: Made, content: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and what is said of an evaluation of this content."""
    words, path, _ = made
    path.write_bytes(content)
    status = main(words)
    return status, capsys.readouterr().err.strip()


def test_a_good_one_is_believed(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    _, path, task = made
    status, said = said_of(made, json.dumps(figures_of(task)).encode(), capsys)
    # The AUC study reads on: the weights that each run began with, which are not there.
    assert status == ("auc" in made[0])
    assert ("initial.safetensors: cannot be read" in said) == ("auc" in made[0])
    assert path.name not in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named(made: Made, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, path, task = made
    content = json.dumps(DAMAGES[damage](figures_of(task), task.class_names[0])).encode()
    assert_named(path, *said_of(made, content, capsys))


@pytest.mark.parametrize("content", [b"", b'{"auc": {"macro": 0.', b'{"threshold_rule": "\xff"}', b"[" * 100_000])
def test_what_is_not_even_json_is_named(made: Made, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert_named(made[1], *said_of(made, content, capsys))


def assert_named(path: Path, status: int, said: str) -> None:
    last = said.splitlines()[-1]
    assert status == 1
    assert f"{path}: not what evaluate writes (" in last
    assert last.endswith(f"run `anatobench evaluate {path.parent} --split test` again")
