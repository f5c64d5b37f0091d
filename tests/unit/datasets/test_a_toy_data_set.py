"""A data set that nobody knows, from its registration to its report.

Nothing outside this file names it. What it needs is what `docs/extending.md` says: a listing and its line in the
registry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stopped_runs import stopping_before
from tiny_store import SMALL

from anatobench.cli.main import main
from anatobench.datasets.case import Case, Listing
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.registry import DATASETS, Dataset
from anatobench.engine import ModelSpec, load_engine
from anatobench.parity.climb import TOLERANCES
from anatobench.parity.inputs import parity_recipe
from anatobench.parity.ladder import Ladder
from anatobench.recipes import FRAMEWORKS, Recipe
from anatobench.store.reader import Store
from anatobench.tasks import RATIC, multi_label_task
from anatobench.training.checkpoints import read_newest

pytestmark = pytest.mark.usefixtures("shallow_models")

CROP = (8, 16, 16)
TASK = multi_label_task("toy_findings", "abdomen", ("odd", "third"), own_geometry=SMALL)


def list_toys(root: Path, options: ListingOptions) -> Listing:
    """`scans/case_NN.nii.gz` with `masks/case_NN.nii.gz`; the number is the diagnosis."""
    cases = []
    for scan in sorted((root / "scans").glob("*.nii.gz")):
        number = int(scan.name.split("_")[1].split(".")[0])
        split = "test" if number < 2 else "validation" if number < 4 else "train"
        targets, mask = (number % 2, int(number % 3 == 0)), root / "masks" / scan.name
        cases.append(Case(f"toy_{number}", f"child_{number}", scan, split, targets, mask, "ratic"))
    return Listing(TASK, tuple(cases))


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "toys", Dataset(list_toys, frozenset({"rescale"})))


@pytest.mark.slow
@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_is_prepared_trained_evaluated_and_reported(
    framework: str, tmp_path: Path, make_raw_cohort: Callable[[int], Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_raw_cohort(8)
    store = tmp_path / "store"
    prepare = ["prepare", "--dataset", "toys", "--raw", str(tmp_path / "raw"), "--store", str(store), "--size", "tiny",
               "--rescale", "hu"]  # fmt: skip
    assert main(prepare) == 0
    assert [case.split for case in Store.open(store).cases] == ["test"] * 2 + ["validation"] * 2 + ["train"] * 4
    assert Store.open(store).task == TASK

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train = ["train", "--task", "toy_findings", "--store", str(store), "--model", "r3d_18", "--framework", framework,
             "--set", "batch_size=2", "--steps", "3", "--out"]  # fmt: skip
    assert main([*train, str(whole)]) == 0
    engine = type(load_engine(framework, ModelSpec("r3d_18", "tiny", RATIC, CROP), Recipe()))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", stopping_before(1, engine.train_step))
        assert main([*train, str(stopped)]) == 130
    assert main(["train", "--resume", "--out", str(stopped)]) == 0
    left, right = (read_newest(run) for run in (whole, stopped))
    assert left is not None
    assert right is not None
    for tree, arrays in left.trees.items():
        np.testing.assert_equal(right.trees[tree], arrays)

    assert main(["evaluate", str(whole)]) == 0
    assert main(["report", str(whole), "--out", str(tmp_path / "report.html")]) == 0
    assert "toy_findings" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_both_frameworks_climb_the_ladder_on_its_task() -> None:
    spec, recipe = ModelSpec("r3d_18", "tiny", TASK, CROP), parity_recipe("float64", 0)
    engines = [load_engine(framework, spec, recipe) for framework in FRAMEWORKS]
    rungs = Ladder(engines[0], engines[1], 2, True, 3, 0, TOLERANCES["float64"]).climb()
    assert [rung.name for rung in rungs if not rung.passed] == []


def test_without_its_line_a_data_set_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "--dataset", "toys", "--raw", str(tmp_path), "--store", str(tmp_path / "store")]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "invalid choice: 'toys'" in capsys.readouterr().err
