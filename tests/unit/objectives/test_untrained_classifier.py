"""A run that trains masks alone: nothing takes its classifier, which is as it was drawn, for one that was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import figures_of
from scan_files import AFFINE, body_voxels
from tiny_store import write_store

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import read_evaluation
from anatobench.objectives.heads import CLASSIFIER
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.recipes import Recipe
from anatobench.report.beside_paper import beside_paper, class_table, dice_table
from anatobench.report.run_results import read_run, read_runs
from anatobench.report.summary import summary_rows
from anatobench.session import Introduction
from anatobench.tasks import RATIC
from anatobench.training.run_folder import RunConfig
from anatobench.volumes.nifti import write_nifti

OBJECTIVE = Objective("invented", ("volume",), {"loss": 1.0})
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    store = write_store(folder / "store", RATIC)
    assert main(["train", "--task", "ratic", "--store", str(store.root), "--model", "r3d_18", "--framework", "torch",
                 "--set", "objective=partial_masks", "--set", "batch_size=4", "--steps", "1",
                 "--out", str(folder / "run")]) == 0  # fmt: skip
    return folder / "run"


def test_a_plan_knows_whether_it_trains_the_classifier() -> None:
    trained = {kind: plan_of(Recipe(objective=kind), RATIC).trains_classifier("r3d_18") for kind in KINDS}
    assert trained == {"diagnosis": True, "partial_masks": False}
    without, some = Phase(OBJECTIVE, trained=("*", "!classifier")), Phase(OBJECTIVE, trained=("layer4.*", "fc.*"))
    for phases, expected in (
        ((without, some), True),
        ((without,), False),
        ((Phase(OBJECTIVE, trained=(CLASSIFIER,)),), True),
        ((Phase(OBJECTIVE, trained=("mask_head.*",)),), False),
    ):
        assert Plan((CLASSIFIER,), phases, "auc_macro").trains_classifier("r3d_18") is expected
    assert not Plan((CLASSIFIER,), (some,), "auc_macro").trains_classifier("swin3d_t"), "its classifier is head.*"
    assert not Plan((), (Phase(OBJECTIVE),), "auc_macro").trains_classifier("r3d_18")


def test_a_label_is_that_of_the_objective() -> None:
    assert plan_of(Recipe(), RATIC).label == "with segmentation"
    assert plan_of(Recipe(segmentation_weight=0.0), RATIC).label == "without segmentation"
    assert plan_of(Recipe(objective="partial_masks"), RATIC).label == "partial masks"
    assert Plan((CLASSIFIER,), (Phase(OBJECTIVE),), "auc_macro").label == "invented"


def test_the_introduction_names_what_is_trained() -> None:
    config = RunConfig(RATIC, "store", "torch", "r3d_18", "tiny", Recipe(objective="partial_masks"))
    said = str(Introduction(config, "torch", "cpu", 1, 8, 4, 3, True))
    assert "partial masks of the 4 of them that have a mask (the classifier stays as it was drawn)" in said
    assert "without segmentation" not in said


@pytest.mark.slow
def test_evaluation_measures_the_masks_alone(run: Path, capsys: Said) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out.splitlines()[-1])
    assert (figures["auc"], figures["cases"]) == (None, 5)
    assert list(figures["organ_dice"]) == ["macro", *RATIC.organs]
    assert read_evaluation(run, "test", RATIC, ("organ_dice",))["organ_dice"] == figures["organ_dice"]
    with pytest.raises(AnatoBenchError, match="lacks auc"):
        read_evaluation(run, "test", RATIC, ("auc",))
    assert "no AUC, since this run left the classifier as it was drawn" in captured.err
    assert "liver" in captured.err
    assert not (run / "predictions_test.csv").exists()
    assert main(["evaluate", str(run), "--aggregate", "max"]) == 2
    assert "partial masks, which leaves the classifier as it was drawn" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_sets_it_beside_no_figure_of_the_paper(run: Path, tmp_path: Path, capsys: Said) -> None:
    assert main(["evaluate", str(run)]) == 0
    result = read_run(run)
    assert result.label == "PyTorch, partial masks"
    assert beside_paper([result]) == class_table([result]) == ""
    assert "PyTorch, partial masks" in dice_table([result])
    assert summary_rows([result])[0][1:4] == ("classifier not trained", "-", "-")
    # Not even one that an earlier version evaluated.
    (run / "evaluation_test.json").write_text(json.dumps(figures_of(RATIC, 0.5)))
    assert beside_paper([read_run(run)]) == ""
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "without segmentation" not in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_no_kind_of_its_own_is_set_beside_the_paper(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that trains the classifier, but is not what the paper did."""
    kind = KINDS["partial_masks"]
    monkeypatch.setitem(KINDS, "partial_masks", lambda r, t: replace(kind(r, t), phases=(Phase(OBJECTIVE),)))
    test = {"auc": {"macro": 0.5}, "ci95": {"auc": {"macro": None}}}
    assert beside_paper([replace(read_runs([run])[0], test=test)]) == ""


@pytest.mark.slow
def test_it_predicts_nothing_and_its_export_begins_a_run_that_does(run: Path, tmp_path: Path, capsys: Said) -> None:
    write_nifti(tmp_path / "scan.nii.gz", body_voxels(), AFFINE)
    weights, scan = tmp_path / "w.safetensors", str(tmp_path / "scan.nii.gz")
    assert main(["export", str(run), "--to", str(weights)]) == 0
    assert "its classifier is untrained" in capsys.readouterr().out
    for source in (run, weights):
        assert main(["predict", str(source), scan]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert f"{source}: its classifier was never trained, so it predicts no finding" in said[0]
    assert main(["train", "--task", "ratic", "--store", RunConfig.read(run).store, "--model", "r3d_18",
                 "--framework", "torch", "--set", "batch_size=4", "--steps", "1", "--initial-weights", str(weights),
                 "--out", str(tmp_path / "next")]) == 0  # fmt: skip
    assert main(["export", str(tmp_path / "next"), "--to", str(weights)]) == 0
    assert "untrained" not in capsys.readouterr().out.splitlines()[-1]
    assert main(["predict", str(weights), scan]) == 0
