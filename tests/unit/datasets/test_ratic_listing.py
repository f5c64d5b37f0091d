from collections.abc import Sequence
from pathlib import Path

import pytest

from anatobench.datasets.case import Listing
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.ratic import LABEL_COLUMNS, list_cases
from anatobench.errors import AnatoBenchError

HEALTHY = "1,0, 1,0, 1,0,0, 1,0,0, 1,0,0"
HEADER = "patient_id," + ",".join(LABEL_COLUMNS) + ",any_injury"


Series = Sequence[tuple[object, int]]
"""Of patient and series."""


def make(root: Path, patients: Sequence[str], series: Series, folders: Series | None = None) -> Path:
    (root / "train.csv").write_text("\n".join([HEADER, *patients]) + "\n")
    lines = [f"{patient},{one},200.0,0" for patient, one in series]
    (root / "train_series_meta.csv").write_text("\n".join(["patient_id,series_id,aortic_hu,incomplete_organ", *lines]))
    for patient, one in folders if folders is not None else series:
        (root / "train_images" / str(patient) / str(one)).mkdir(parents=True)
    return root


def reasons(listing: Listing) -> dict[str, str]:
    return {one.case_id: one.reason for one in listing.rejected}


def test_the_label_columns_are_kaggles() -> None:
    assert LABEL_COLUMNS[4:7] == ("kidney_healthy", "kidney_low", "kidney_high")
    assert len(LABEL_COLUMNS) == 13


def test_a_case_is_a_series_with_its_patients_grades(tmp_path: Path) -> None:
    injured = "0,1, 1,0, 0,0,1, 0,1,0, 1,0,0"
    make(tmp_path, [f"7,{injured},1", f"8,{HEALTHY},0"], [(7, 71), (7, 72), (8, 81)])
    listing = list_cases(tmp_path)
    targets = {case.case_id: case.targets for case in listing.cases}
    assert targets == {"7_71": (1, 0, 2, 1, 0), "7_72": (1, 0, 2, 1, 0), "8_81": (0, 0, 0, 0, 0)}
    assert listing.rejected == ()
    assert len({case.split for case in listing.cases if case.patient_id == "7"}) == 1


def test_faults_cost_their_own_cases_only(tmp_path: Path) -> None:
    patients = [
        f"1,{HEALTHY},0",
        "2,0,0, 1,0, 1,0,0, 1,0,0, 1,0,0,0",  # bowel: no grade
        "3,1,0, 1,0, 1,1,0, 1,0,0, 1,0,0,0",  # kidney: two grades
        "4,1,0, 1,0, x,0,0, 1,0,0, 1,0,0,0",
        f"5,{HEALTHY},0",
        f"5,{HEALTHY},0",
        f"6,{HEALTHY},0",
        f"8,{HEALTHY},0",
    ]
    series = [(1, 11), (2, 21), (3, 31), (4, 41), (5, 51), (6, 61), (6, 62), (6, 62), (9, 91), ("../1", 12)]
    make(tmp_path, patients, series, folders=[(1, 11), (5, 51), (6, 61)])
    (tmp_path / "train_images" / "6" / "61").rmdir()
    listing = list_cases(tmp_path)
    assert [case.case_id for case in listing.cases] == ["1_11"]
    assert reasons(listing) == {
        "2_21": "bad-label",
        "3_31": "bad-label",
        "4_41": "bad-label",
        "5_51": "duplicate-id",
        "6_61": "missing-scan",
        "62": "duplicate-id",
        "9_91": "no-labels",
        "../1_12": "bad-id",
        "8": "no-series",
    }


def test_any_injury_that_contradicts_the_organs_is_noted(tmp_path: Path) -> None:
    make(tmp_path, [f"1,{HEALTHY},1"], [(1, 11)])
    listing = list_cases(tmp_path)
    assert [case.targets for case in listing.cases] == [(0, 0, 0, 0, 0)]
    assert any("any_injury" in note and "example 1" in note for note in listing.notes)


def test_the_split_ignores_the_order_of_rows(tmp_path: Path) -> None:
    rows = [f"{patient},{HEALTHY},0" for patient in range(1, 41)]
    series = [(patient, patient * 10) for patient in range(1, 41)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    options = ListingOptions(validation_fraction=0.25, seed=5)
    one = {c.case_id: c.split for c in list_cases(make(tmp_path / "a", rows, series), options).cases}
    two = {c.case_id: c.split for c in list_cases(make(tmp_path / "b", rows[::-1], series[::-1]), options).cases}
    assert one == two
    assert [list(one.values()).count(name) for name in ("train", "validation", "test")] == [24, 8, 8]


def test_given_masks_are_preferred_to_kaggles(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root, [f"1,{HEALTHY},0"], [(1, 11), (1, 12), (1, 13)])
    (root / "segmentations").mkdir()
    for series in (11, 12):
        (root / "segmentations" / f"{series}.nii").touch()
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "11.nii.gz").touch()
    cases = {c.case_id: c for c in list_cases(root, ListingOptions(masks=masks)).cases}
    assert (cases["1_11"].mask, cases["1_11"].mask_labels) == (masks / "11.nii.gz", "auto")
    assert (cases["1_12"].mask, cases["1_12"].mask_labels) == (root / "segmentations" / "12.nii", "ratic")
    assert cases["1_13"].mask is None


def test_another_label_table_may_be_named(tmp_path: Path) -> None:
    make(tmp_path, [f"1,{HEALTHY},0"], [(1, 11)])
    (tmp_path / "train.csv").rename(tmp_path / "train_2024.csv")
    assert len(list_cases(tmp_path, ListingOptions(csv="train_2024.csv")).cases) == 1
    with pytest.raises(AnatoBenchError, match=r"train\.csv is missing"):
        list_cases(tmp_path)
