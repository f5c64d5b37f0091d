"""The transfer as a table of runs: same weights and cases in both frameworks, and a record that says what was found."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_schema import assert_valid
from tiny_store import write_store

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.evaluation.organ_dice import OrganDice, write_organ_dice
from anatobench.experiments.jobs import job_arrays
from anatobench.experiments.runs import PlannedRun, chains_of, run_folder
from anatobench.experiments.statistics import interval_of
from anatobench.experiments.transfer import (
    ALL_CASES,
    TRANSFER_FILE,
    TransferCell,
    TransferSelection,
    TransferSettings,
    planned,
    pretraining_name,
    what_is_missing,
)
from anatobench.experiments.transfer_results import collect, result_table
from anatobench.recipes import FRAMEWORKS
from anatobench.report.transfer_page import build_transfer_page
from anatobench.store.reader import Store
from anatobench.system.json_text import json_bytes
from anatobench.tasks import RATIC
from anatobench.training.run_folder import evaluation_file

SELECTION = TransferSelection(counts=(2, ALL_CASES), repetitions=2)
SIZES = {"train": 8, "validation": 3, "test": 4}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TransferSettings:
    root = tmp_path_factory.mktemp("stores")
    stores = [write_store(root / name, RATIC, SIZES, seed) for seed, name in enumerate(("own", "partial", "whole"))]
    own, partial, whole = (str(store.root) for store in stores)
    return TransferSettings(own, partial, whole, steps=6, pretraining_steps=5, settings=("batch_size=4",),
                            frozen_rates=(1e-2, 1e-3))  # fmt: skip


def test_what_is_compared_begins_with_the_same_weights_and_sees_the_same_cases(
    settings: TransferSettings, tmp_path: Path
) -> None:
    runs = {run.name: run for run in planned(SELECTION, settings, tmp_path)}
    cells = SELECTION.cells(settings)
    assert len(cells) == 2 * 3 * 2 * (2 + 1) * 2  # repetitions, weights, counts, rates of both ways, frameworks
    assert len(runs) == len(cells) + 2 * 2
    for cell in cells:
        run = runs[cell.name]
        recipe = run.config.recipe
        assert (recipe.cases, recipe.draw, recipe.seed) == (cell.cases, cell.seed, cell.seed)
        assert recipe.batch_size == (2 if cell.cases == 2 else 4)
        assert recipe.segmentation_weight == 0
        assert recipe.frozen_backbone == (cell.mode == "frozen")
        assert run.config.framework == cell.framework
        if cell.weights != "none":
            assert run.first == pretraining_name(cell.weights, cell.seed)
            assert run.config.initial_weights == str(run_folder(tmp_path, run.first))
            assert runs[run.first].config.recipe.objective == "partial_masks"
            assert runs[run.first].config.store == settings.pretraining_store(cell.weights)
            assert runs[run.first].config.recipe.seed == cell.seed
        elif cell.framework == FRAMEWORKS[0]:
            assert run.first is None
            assert run.config.initial_weights is None
        else:
            assert run.first == replace(cell, framework=FRAMEWORKS[0]).name
            assert str(run.config.initial_weights).startswith(str(run_folder(tmp_path, run.first)))
    alone = [run for run in runs.values() if run.first is None]
    assert all(run.first in {one.name for one in alone} for run in runs.values() if run.first), "two waves are enough"


def test_runs_come_after_what_they_begin_with_here_and_on_a_cluster(settings: TransferSettings, tmp_path: Path) -> None:
    runs = planned(SELECTION, settings, tmp_path)
    for chain in chains_of(runs, tmp_path):
        trained = [Path(words[words.index("--out") + 1]).name for words in chain.commands if words[0] == "train"]
        assert trained[0] == chain.name
    first, second = (array.plan.read_text().splitlines() for array in job_arrays(runs, tmp_path, None, ()))
    assert len(first) + len(second) == len(runs)
    assert sum("pretraining_" in line for line in first) == 4
    assert not any("pretraining_" in line.split("\t")[1] for line in second)


def test_what_cannot_be_compared_is_refused_before_anything_begins(settings: TransferSettings) -> None:
    assert what_is_missing(SELECTION, settings) == []
    assert "--whole-store: not given" in str(what_is_missing(SELECTION, replace(settings, whole_store=None)))
    kinetics = replace(SELECTION, weights=("none", "kinetics"))
    assert "no pretrained weights of size tiny" in str(what_is_missing(kinetics, settings))
    with pytest.raises(UsageError, match="the experiment itself sets"):
        replace(settings, settings=("draw=3",))
    with pytest.raises(UsageError, match="first draws what others take"):
        TransferSelection(frameworks=("jax",))
    with pytest.raises(UsageError, match="--weights imagenet: choose from none"):
        TransferSelection(weights=("imagenet",))


def test_counts_and_rates_that_name_no_run_of_their_own_are_refused(
    settings: TransferSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_many = what_is_missing(replace(SELECTION, counts=(2, 9)), settings)
    assert too_many == [f"--store: {settings.store}: has 8 training cases: give no --counts above it"]
    for rates in ((1e-2, 0.01), (1e-2, 0.01000000001)):
        with pytest.raises(UsageError, match="two are one in the name of their run"):
            replace(settings, fine_tuned_rates=rates)
    for counts in ("0", "2,-1", "few"):
        words = ["--out", str(tmp_path / "new"), "--store", settings.store, f"--counts={counts}"]
        assert main(["experiments", "transfer", "list", *words]) == 2
        assert f"--counts {counts}: numbers" in capsys.readouterr().err


def test_whole_masks_have_every_class(settings: TransferSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def annotated_in_part(path: str) -> Store:
        store = read_index(path)
        cases = [replace(case, annotated=(1, 0, 1, 1, 1)) for case in store.cases]
        return replace(store, cases=tuple(cases))

    read_index = Store.read_index
    monkeypatch.setattr(Store, "read_index", staticmethod(annotated_in_part))
    (found,) = what_is_missing(SELECTION, settings)
    assert found.startswith("--whole-store: ")
    assert found.endswith("4 of its training cases are annotated in part: it is a --partial-store")


def test_pretraining_on_test_scans_is_refused(
    settings: TransferSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_digests(path: str) -> Store:
        store = read_index(path)
        cases = [replace(case, volume_checksum=str(number)) for number, case in enumerate(store.cases)]
        return replace(store, cases=tuple(cases))

    read_index = Store.read_index
    monkeypatch.setattr(Store, "read_index", staticmethod(with_digests))
    assert what_is_missing(SELECTION, settings) == []  # the same digests, but of test cases alone
    other = write_store(tmp_path / "other", RATIC, {"train": 15})
    missing = what_is_missing(SELECTION, replace(settings, partial_store=str(other.root)))
    assert missing == [f"--partial-store: {other.root}: trains on 4 of the test scans of --store: leave them out"]


def evaluated(run: Path, planned_run: PlannedRun, figures: dict[str, Any], validation: float | None = None) -> None:
    run.mkdir(parents=True)
    planned_run.config.write(run / "config.json")
    (run / evaluation_file("test")).write_text(json.dumps(figures))
    record = {"kind": "evaluation", "step": 6, "auc_macro": validation}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")


def auc_of(cell: TransferCell) -> float:
    """Test AUC that the repetition moves, the weights raise, and the higher frozen rate more."""
    gain = {"none": 0.0, "partial_masks": 0.04 + 0.02 * cell.seed, "all_masks": 0.1}[cell.weights]
    frozen = {0.01: -0.02, 0.001: -0.07}[cell.rate] if cell.mode == "frozen" else 0.0
    return 0.6 + 0.1 * cell.seed + gain + frozen + (0.001 if cell.framework == "jax" else 0.0)


@pytest.fixture
def finished(settings: TransferSettings, tmp_path: Path) -> Path:
    """Write runs that are done, one of them with an undefined AUC, and leave a pre-training that is not."""
    runs = {run.name: run for run in planned(SELECTION, settings, tmp_path)}
    cells = SELECTION.cells(settings)
    for cell in cells:
        auc = dict.fromkeys(("macro", *RATIC.class_names), None)
        auc |= {"macro": auc_of(cell) if cell != cells[-1] else None, "liver_low": 2 * auc_of(cell) - 0.7}
        # Validation likes the lower frozen rate, which test does not.
        validation = 0.5 + (0.1 if cell.rate == 1e-3 else 0.0) + 0.01 * cell.seed
        evaluated(run_folder(tmp_path, cell.name), runs[cell.name], {"auc": auc}, validation)
    for weights, seed in SELECTION.pretraining[:3]:
        name = pretraining_name(weights, seed)
        dice = {"macro": 0.5 + 0.2 * seed, "liver": 0.9, "bowel": None}
        evaluated(run_folder(tmp_path, name), runs[name], {"organ_dice": dice})
        of_cases = OrganDice(RATIC.organs, ("a", "b"), np.array([[0.5 + 0.2 * seed] * 5, [np.nan] * 5]))
        write_organ_dice(run_folder(tmp_path, name) / "organ_dice_test.csv", of_cases)
    return tmp_path


def test_gains_are_paired_and_validation_chooses_the_rate(settings: TransferSettings, finished: Path) -> None:
    record = collect(SELECTION, settings, finished)
    assert_valid(json.loads(json_bytes(record)), "transfer")
    found = {(r["weights"], r["mode"], r["cases"], r["framework"]): r for r in record["results"]}
    partial = found["partial_masks", "fine_tuned", 2, "torch"]
    assert partial["auc"] == pytest.approx({"0": 0.64, "1": 0.76})
    assert partial["gain"] == pytest.approx(asdict(interval_of([0.04, 0.06])))
    assert partial["class_gains"] == {"liver_low": pytest.approx(asdict(interval_of([0.08, 0.12])))}
    assert found["none", "fine_tuned", 2, "torch"]["gain"] is None
    frozen = found["none", "frozen", 2, "torch"]
    assert frozen["rate"] == 1e-3
    assert frozen["frozen_loss"]["mean"] == pytest.approx(-0.07)
    assert partial["frozen_loss"] is None
    chosen = next(row for row in record["rates"] if row["weights"] == "none" and row["cases"] == 2)
    assert chosen["validation"] == pytest.approx({"0.01": 0.505, "0.001": 0.605})
    assert {row["mode"] for row in record["rates"]} == {"frozen"}, "fine-tuning had one rate alone"
    assert all(row["mean"] == pytest.approx(0.001) for row in record["framework_differences"])
    assert record["missing"] == [pretraining_name(*SELECTION.pretraining[3])]
    assert len(record["undefined"]) == 1
    dice = next(row for row in record["pretraining"] if row["weights"] == "partial_masks")
    assert dice["organs"]["macro"]["mean"] == pytest.approx(0.6)
    assert dice["organs"]["liver"]["count"] == 2
    assert "bowel" not in dice["organs"]
    assert dice["cases"] == pytest.approx({"a": 0.6})


def test_the_published_gain_stands_beside_its_number_of_cases_alone(settings: TransferSettings, tmp_path: Path) -> None:
    selection = TransferSelection(("none", "partial_masks"), ("fine_tuned",), (5, ALL_CASES), repetitions=1)
    runs = {run.name: run for run in planned(selection, settings, tmp_path)}
    for cell in selection.cells(settings):
        auc = dict.fromkeys(("macro", *RATIC.class_names), auc_of(cell))
        evaluated(run_folder(tmp_path, cell.name), runs[cell.name], {"auc": auc})
    record = collect(selection, settings, tmp_path)
    table = {row[:4]: row[4:] for row in result_table(record).rows}
    assert table["5", "fine-tuned", "partial masks", "JAX"] == ("1", "64.10", "+4.00", "-", "+17.5")
    assert table["5", "fine-tuned", "none", "JAX"] == ("1", "60.10", "-", "-", "-")
    assert table["all", "fine-tuned", "partial masks", "PyTorch"][-1] == "-"
    page = build_transfer_page(record)
    assert "they are Dice of segmentation on private scans" in page
    assert "8 of 8 conditions have one repetition alone: their intervals are undefined" in page
    assert "synthetic" not in page
    assert "synthetic cohorts, drawn by a program" in build_transfer_page({**record, "synthetic": True})
    assert "5 cases, partial masks, fine-tuned, PyTorch 64.0" in page


@pytest.mark.slow
def test_the_command_lists_resumes_and_collects(
    settings: TransferSettings, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / TRANSFER_FILE).write_text(json.dumps(asdict(settings)))
    words = ["--out", str(finished), "--counts", "2,all", "--repetitions", "2"]
    assert main(["experiments", "transfer", "list", *words, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["states"] == {"absent": 1, "begun": 0, "done": len(listed["runs"]) - 1}
    assert main(["experiments", "transfer", "submit", *words, "--dry-run", "--json"]) == 0
    submitted = json.loads(capsys.readouterr().out)
    assert Path(submitted["plan"]).read_text().count("\n") == 1
    assert main(["experiments", "transfer", "list", *words, "--steps", "7"]) == 1
    assert "steps: 6 -> 7" in capsys.readouterr().err
    assert main(["experiments", "transfer", "collect", *words]) == 0
    text = (finished / "report.html").read_text()
    assert "Organ Dice of the pre-training" in text
    assert "1 of 24 conditions" in text, "one AUC of its two is undefined"


@pytest.mark.parametrize("damaged", [{}, {"organ_dice": None}, {"organ_dice": {"macro": "high"}}, []])
def test_a_damaged_evaluation_of_the_pretraining_is_named(
    damaged: object, settings: TransferSettings, finished: Path
) -> None:
    path = run_folder(finished, pretraining_name(*SELECTION.pretraining[0])) / evaluation_file("test")
    path.write_text(json.dumps(damaged))
    with pytest.raises(AnatoBenchError, match=r"evaluation_test\.json: not what evaluate writes"):
        collect(SELECTION, settings, finished)


def test_nothing_done_is_said(settings: TransferSettings, tmp_path: Path) -> None:
    with pytest.raises(AnatoBenchError, match=r"none of the \d+ transfers asked for is done"):
        collect(SELECTION, settings, tmp_path)
