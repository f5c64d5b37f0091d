from pathlib import Path

from anatobench.datasets.case import Case
from anatobench.datasets.ratic import TRAIN_SHARE
from anatobench.datasets.splits import carve_validation, draw


def test_the_papers_proportion_gives_the_papers_numbers():
    patients = [str(number) for number in range(3147)]
    assert len(draw(patients, TRAIN_SHARE, 0, "ratic-train")) == 2500


def test_a_draw_depends_on_seed_and_patients_not_on_their_order():
    patients = [str(number) for number in range(100)]
    drawn = draw(patients, 0.5, 3, "x")
    assert draw(patients[::-1] + patients[:10], 0.5, 3, "x") == drawn
    assert draw(patients, 0.5, 4, "x") != drawn
    assert draw(patients, 0.5, 3, "y") != drawn


def test_validation_is_carved_from_train_patients_whole():
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
