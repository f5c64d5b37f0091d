from dataclasses import replace
from pathlib import Path

import pytest

from anatobench.datasets.case import Case, similar_patients_note
from anatobench.datasets.ratic import TRAIN_SHARE
from anatobench.datasets.splits import carve_validation, draw


def test_the_papers_proportion_gives_the_papers_numbers() -> None:
    patients = [str(number) for number in range(3147)]
    assert len(draw(patients, TRAIN_SHARE, 0, "ratic-train")) == 2500


def test_a_draw_depends_on_seed_and_patients_not_on_their_order() -> None:
    patients = [str(number) for number in range(100)]
    drawn = draw(patients, 0.5, 3, "x")
    assert draw(patients[::-1] + patients[:10], 0.5, 3, "x") == drawn
    assert draw(patients, 0.5, 4, "x") != drawn
    assert draw(patients, 0.5, 3, "y") != drawn


def test_validation_is_carved_from_train_patients_whole() -> None:
    cases = [
        Case(f"{patient}_{scan}", str(patient), Path("scan"), "test" if patient % 4 == 0 else "train", (0,))
        for patient in range(40)
        for scan in range(2)
    ]
    carved = carve_validation(cases, 0.2, seed=1)
    assert sum(case.split == "validation" for case in carved) == 2 * 6  # of 30 training patients
    for before, after in zip(cases, carved, strict=True):
        assert (before.split == "test") == (after.split == "test")
    splits: dict[str, set[str]] = {}
    for case in carved:
        splits.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("007", "7"),
        ("7", "7.0"),
        ("7", "7.00"),
        ("P7", "p7"),
        ("P-07", "P-7"),
        ("\uff17", "7"),
        ("A B", "a_b"),
        ("7\u200b", "7"),
    ],
)
def test_patients_that_a_table_made_two_of_are_named(one: str, other: str) -> None:
    pair = [
        Case(f"case{number}", patient, Path("x"), split, (0,))
        for number, (patient, split) in enumerate([(one, "train"), (other, "test")])
    ]
    assert repr(one) in str(similar_patients_note(pair))
    assert similar_patients_note([pair[0], replace(pair[1], split="train")]) is None


@pytest.mark.parametrize(("one", "other"), [("train_1", "train_10"), ("1.01", "1.1"), ("P7", "7"), ("10", "1")])
def test_patients_that_are_two_are_not_named(one: str, other: str) -> None:
    pair = [Case(one, one, Path("x"), "train", (0,)), Case(other, other, Path("x"), "test", (0,))]
    assert similar_patients_note(pair) is None
