"""Cohorts of several sources, each with organs of its own: what is written, what is listed, and what is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from anatobench.datasets.registry import list_cases
from anatobench.datasets.synthetic import MARK
from anatobench.engine import Engine, load_engine
from anatobench.errors import UsageError
from anatobench.evaluation.organ_dice import dice_of_split
from anatobench.objectives.heads import PARTIAL_MASKS
from anatobench.phantom.cohort import FORMATS, write_cohort
from anatobench.phantom.plan import CohortPlan
from anatobench.session import configure, train_run
from anatobench.store.prepare import prepare
from anatobench.store.reader import Store
from anatobench.tasks import RATIC, Geometry
from anatobench.training.checkpoints import read_newest

PLAN = CohortPlan("ratic", "tiny", 397, 20, partial=4)
HALVED = Geometry((24.0, 12.0, 12.0), (24, 32, 32), (20, 24, 24))
"""The tiny geometry with voxels of twice the size: organs are large."""
NEVER_TOGETHER = {"liver": 0.65, "bowel": 0.2}
"""What of Dice is learned, of organs that one source of the four has drawn each."""
STEPS = 60


def stored(folder: Path, plan: CohortPlan) -> Store:
    write_cohort(folder / "raw", plan)
    options = {"masks": folder / "raw" / "masks"} if FORMATS[plan.format].masks_apart else {}
    listing = list_cases(plan.format, folder / "raw", **options)
    listing = replace(listing, task=replace(listing.task, own_geometry=HALVED))
    summary = prepare(listing, folder / "store", "tiny", 0, dataset=plan.format, raw_root=folder / "raw",
                      progress=False)  # fmt: skip
    assert summary.rejected == {}
    return Store.open(folder / "store")


Stores = Callable[[CohortPlan], tuple[Store, Store]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Return the stores of a plan: of its cohort and of the same with whole masks."""

    @cache
    def written(plan: CohortPlan) -> tuple[Store, Store]:
        folder = tmp_path_factory.mktemp(plan.format)
        return stored(folder / "partial", plan), stored(folder / "whole", replace(plan, partial=0))

    return written


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [PLAN, CohortPlan("ct_rate", "tiny", 38, 4, partial=2), CohortPlan("rad_chestct", "tiny", 38, 2, partial=2)],
    ids=lambda plan: plan.format,
)
def test_every_case_annotates_what_its_source_drew_and_nothing_else(stores: Stores, plan: CohortPlan) -> None:
    store, whole = stores(plan)
    organs = store.task.organs
    by_source = [
        tuple(int(organ in plan.drawn_by(source, organs)) for organ in organs) for source in range(plan.partial)
    ]
    found = [store.annotated(index) for index in range(len(store.cases))]
    assert set(found) == {by_source[plan.source(index)] for index in range(plan.cases)}
    assert all(whole.annotated(index) == (1,) * len(organs) for index in range(len(whole.cases)))
    for index, annotated in enumerate(found):
        size = store.geometry.padded_size
        (scan, some), (same_scan, every) = (s.read_crop(index, (0, 0, 0), size) for s in (store, whole))
        np.testing.assert_array_equal(scan, same_scan)
        kept = np.isin(every, [label for label, one in enumerate(annotated, start=1) if one])
        np.testing.assert_array_equal(some, np.where(kept, every, 0))


def test_sources_cover_every_organ_and_none_has_all() -> None:
    for seed in range(20):
        plan = CohortPlan("ratic", "tiny", seed, 40, partial=4)
        drawn = [plan.drawn_by(source, RATIC.organs) for source in range(4)]
        assert set().union(*drawn) == set(RATIC.organs)
        assert all(0 < len(organs) < len(RATIC.organs) for organs in drawn)
        counts = np.bincount([plan.source(index) for index in range(40)], minlength=4)
        assert counts.tolist() == [10] * 4
    with pytest.raises(UsageError, match="--partial -1"):
        CohortPlan("ratic", "tiny", 0, 1, partial=-1)


def test_a_cohort_of_whole_masks_is_marked_as_before(tmp_path: Path) -> None:
    write_cohort(tmp_path / "raw", CohortPlan("rad_chestct", "tiny", 0, 1))
    assert "partial" not in (tmp_path / "raw" / MARK).read_text()


def dice_after_training(store: Store, whole: Store, run: Path) -> dict[str, float | None]:
    """Return the Dice of the organs in the whole masks of the test split, which training never sees."""
    settings = ["objective=partial_masks", "batch_size=6", "learning_rate=5e-3"]
    config = configure(store.root, "r3d_18", "torch", [*settings, "epochs=1000"], max_steps=STEPS, evaluate_every=1000)
    train_run(run, config)
    engine: Engine = load_engine("torch", config.spec, config.recipe)
    newest = read_newest(run)
    assert newest is not None
    engine.load_weights(newest.trees["model"])
    return dice_of_split(engine, whole, "test", 6, PARTIAL_MASKS).to_json()


@pytest.mark.slow
def test_two_organs_never_annotated_together_are_both_learned(stores: Stores, tmp_path: Path) -> None:
    """Measured of three seeds: liver 0.73 or more, bowel 0.37 or more; with a loss that takes what is not annotated for
    absent, of two seeds, 0.67 or less, and no bowel. (That is seen because three cases of four do not have an organ: of
    two it is one, and then it is found all the same, because Dice hardly punishes what is found where nothing is said
    to be.)"""
    store, whole = stores(PLAN)
    places = [RATIC.organs.index(organ) for organ in NEVER_TOGETHER]
    rows = {tuple(store.annotated(index)[place] for place in places) for index in store.split("train")}
    assert rows == {(0, 0), (0, 1), (1, 0)}
    dice = dice_after_training(store, whole, tmp_path / "run")
    assert all((dice[organ] or 0) > least for organ, least in NEVER_TOGETHER.items()), dice
