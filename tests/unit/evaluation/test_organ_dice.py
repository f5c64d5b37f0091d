"""Dice of the auxiliary head, by hand and over a store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import NumpyEngine
from tiny_store import FINDINGS, write_store

from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.organ_dice import (
    OrganDice,
    dice_of_organs,
    dice_of_split,
    lowest_dice,
    read_organ_dice,
    write_organ_dice,
)
from anatobench.evaluation.predictions import Predictions
from anatobench.evaluation.worst_cases import most_wrong, worst_case_ids
from anatobench.recipes import Recipe
from anatobench.store.crops import centre_crop_start
from anatobench.tasks import IGNORED_ORGAN, RATIC, MaskClass


def test_dice_by_hand() -> None:
    given = np.array([1, 1, 1, 2, 0, IGNORED_ORGAN, 0], np.uint8)
    found = np.array([1, 1, 0, 1, 0, 2, 3], np.uint8)
    # organ 1: 2 * 2 / (3 + 3); organ 2: none of 1 and 0 (the ignored voxel counts nowhere); 3: false; 4: on no side
    np.testing.assert_allclose(dice_of_organs(given, found, 4), [2 / 3, 0, 0, np.nan])


def test_every_case_with_a_mask_is_measured_and_survives_the_file(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 2, "test": 5})
    size = FINDINGS.geometry("tiny").crop_size
    engine = NumpyEngine(ModelSpec("r3d_18", "tiny", FINDINGS, size), Recipe())
    found = dice_of_split(engine, store, "test", 2)
    assert found.case_ids == ("test_1", "test_3")
    start = centre_crop_start(store.geometry.padded_size, size)
    volume, organs = store.read_crop(store.split("test")[3], start, size)
    expected = 2 * ((volume > 0) & (organs == 1)).sum() / ((volume > 0).sum() + (organs == 1).sum())
    assert found.dice[1, 0] == pytest.approx(expected)
    assert np.isnan(found.dice[:, 1:]).all(), "no other organ is given or predicted"
    assert found.to_json() == {
        "macro": pytest.approx(found.dice[:, 0].mean()),
        FINDINGS.organs[0]: pytest.approx(found.dice[:, 0].mean()),
        **dict.fromkeys(FINDINGS.organs[1:]),
    }
    write_organ_dice(tmp_path / "dice.csv", found)
    again = read_organ_dice(tmp_path / "dice.csv", FINDINGS)
    np.testing.assert_array_equal(again.dice, found.dice)
    assert again.case_ids == found.case_ids
    with pytest.raises(AnatoBenchError, match="not organ Dice of task ratic"):
        read_organ_dice(tmp_path / "dice.csv", RATIC)


def test_organs_that_a_case_does_not_annotate_do_not_count(tmp_path: Path) -> None:
    """The head of segmentation is trained on whole masks; those of the other splits may be partly annotated."""
    size = FINDINGS.geometry("tiny").crop_size
    whole = write_store(tmp_path / "store", sizes={"train": 2, "test": 4})
    engine = NumpyEngine(ModelSpec("r3d_18", "tiny", FINDINGS, size), Recipe())
    classes = (MaskClass("both", FINDINGS.organs[:2]), MaskClass("last", FINDINGS.organs[-1:]))
    for task, annotated, counts in (
        (FINDINGS, (0, 1, 1, 1, 1, 1), False),
        (FINDINGS, (1, 0, 0, 0, 0, 0), True),
        (replace(FINDINGS, classes=classes), (1, 0), True),
        (replace(FINDINGS, classes=classes), (0, 1), False),
    ):
        cases = tuple(replace(case, annotated=annotated) for case in whole.cases)
        found = dice_of_split(engine, replace(whole, task=task, cases=cases), "test", 2)
        assert np.isfinite(found.dice[:, 0]).all() == counts
        assert np.isnan(found.dice[:, 1:]).all()


def predictions() -> Predictions:
    """Return three scans of two findings: b is surely wrong in the first, c a little wrong in the second."""
    logits = np.array([[3.0, -1.0], [4.0, -2.0], [-1.0, 0.5]], np.float32)
    return Predictions(FINDINGS, ("a", "b", "c"), ("a", "b", "c"), logits, np.array([[1, 0], [0, 0], [1, 0]], np.int8))


def test_the_most_wrong_scan_of_each_finding_comes_first() -> None:
    wrong = most_wrong(predictions(), {})
    assert [(w.case_id, w.finding, w.label) for w in wrong] == [("b", "calcification", 0), ("c", "effusion", 0)]
    assert wrong[0].probability == pytest.approx(1 / (1 + np.exp(-4)))


def test_a_scan_is_wrong_by_the_threshold_that_was_chosen() -> None:
    """Not by 0.5: what is below 0.99 is missed, 0.622 is no false alarm where 0.7 is asked for."""
    missed, alarm = most_wrong(predictions(), {"calcification": 0.99, "effusion": 0.1})
    assert (missed.case_id, missed.finding, missed.label, missed.threshold) == ("c", "calcification", 1, 0.99)
    assert (alarm.case_id, alarm.label) == ("c", 0)
    assert [w.finding for w in most_wrong(predictions(), {"calcification": None, "effusion": 0.7})] == ["calcification"]
    (kept,) = most_wrong(predictions(), {"calcification": 0.2, "effusion": 0.7})
    assert (kept.case_id, kept.label) == ("b", 0), "c's 0.269 is called from 0.2 on"


def test_what_is_right_or_unknown_is_not_listed() -> None:
    known = predictions()
    right = Predictions(FINDINGS, known.case_ids, known.patient_ids, known.logits, np.array([[1, 0], [1, 0], [0, 1]]))
    assert most_wrong(right, {}) == []
    unknown = Predictions(FINDINGS, known.case_ids, known.patient_ids, known.logits, np.full((3, 2), -1, np.int8))
    assert most_wrong(unknown, {}) == []


def test_low_dice_is_shown_too_and_cases_without_any_are_not() -> None:
    values = np.array([[0.9, 0.2], [np.nan, np.nan], [0.1, np.nan]])
    dice = OrganDice(("x", "y"), ("a", "empty", "low"), values)
    assert [case_id for case_id, _ in lowest_dice(dice, 5)] == ["low", "a"]
    assert worst_case_ids(predictions(), {}, dice) == ["b", "c", "low", "a"]
