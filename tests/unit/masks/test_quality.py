"""Each kind of bad mask is told from a good one, and from a good one of a scan that ends early."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anatobench.masks.quality import SEVERITY, check_masks, judge, quality_table
from anatobench.masks.scans import Scan
from anatobench.report.masks_page import build_masks_page
from anatobench.tasks import ABDOMEN_ORGANS, CHEST_ORGANS
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.nifti import write_nifti
from anatobench.volumes.volume import Mask

AFFINE = np.array([[0, 0, -5.0, 200], [0, -5.0, 0, 150], [-5.0, 0, 0, 250], [0, 0, 0, 1]])
LABEL = {name: label for label, name in TOTALSEGMENTATOR_V2.items()}


def abdomen() -> np.ndarray:
    """Labels [100, 60, 80] at 5 mm: organs of an adult's size, well inside; the patient's left has high columns."""
    labels = np.zeros((100, 60, 80), np.uint8)

    def place(name: str, rows: slice, front: slice, columns: slice) -> None:
        labels[rows, front, columns] = LABEL[name]

    for number, name in enumerate(("T10", "T11", "T12", "L1", "L2", "L3", "L4")):
        place(f"vertebrae_{name}", slice(20 + 7 * number, 26 + 7 * number), slice(40, 48), slice(36, 44))
    place("liver", slice(26, 54), slice(10, 30), slice(8, 34))
    place("spleen", slice(28, 42), slice(30, 40), slice(62, 72))
    place("kidney_right", slice(42, 62), slice(32, 40), slice(22, 30))
    place("kidney_left", slice(42, 62), slice(32, 40), slice(50, 58))
    place("colon", slice(60, 80), slice(10, 26), slice(24, 60))
    return labels


def findings(labels: np.ndarray) -> dict[str, str]:
    """Organ to finding, without what is ok."""
    found = judge(Mask(labels, AFFINE), TOTALSEGMENTATOR_V2, ABDOMEN_ORGANS)
    assert [one.organ for one in found] == list(ABDOMEN_ORGANS)
    return {one.organ: one.finding for one in found if one.finding != "ok"}


def spleen_gone(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == LABEL["spleen"], 0, labels)


def kidneys_swapped(labels: np.ndarray) -> np.ndarray:
    left, right = labels == LABEL["kidney_left"], labels == LABEL["kidney_right"]
    labels[left], labels[right] = LABEL["kidney_right"], LABEL["kidney_left"]
    return labels


def right_kidney_half_left(labels: np.ndarray) -> np.ndarray:
    wrong = (labels == LABEL["kidney_right"]) & (np.arange(100) < 50)[:, None, None]
    return np.where(wrong, LABEL["kidney_left"], labels)


def mirrored(labels: np.ndarray) -> np.ndarray:
    return labels[:, :, ::-1]


def liver_tiny(labels: np.ndarray) -> np.ndarray:
    beyond = (labels == LABEL["liver"]) & (np.arange(60) > 14)[None, :, None]
    return np.where(beyond, 0, labels)


def spleen_huge(labels: np.ndarray) -> np.ndarray:
    labels[20:60, 8:38, 60:76] = LABEL["spleen"]
    return labels


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda labels: labels, {}),
        (spleen_gone, {"spleen": "missing"}),
        (kidneys_swapped, {"kidney_left": "swapped", "kidney_right": "swapped"}),
        (right_kidney_half_left, {"kidney_left": "both sides"}),
        (mirrored, dict.fromkeys(("liver", "spleen", "kidney_left", "kidney_right"), "swapped")),
        (liver_tiny, {"liver": "too small"}),
        (spleen_huge, {"spleen": "too large"}),
    ],
    ids=["good", "gone", "swapped", "half", "mirrored", "tiny", "huge"],
)
def test_a_fault_is_found_and_nothing_else(spoil: Callable[[np.ndarray], np.ndarray], expected: dict[str, str]) -> None:
    assert findings(spoil(abdomen())) == expected


def test_an_organ_at_the_scans_edge_is_cut_off_not_too_small() -> None:
    """The upper half of the abdomen: half a kidney is no small kidney, and no colon is no fault."""
    found = judge(Mask(abdomen()[:46], AFFINE), TOTALSEGMENTATOR_V2, ABDOMEN_ORGANS)
    assert [(one.finding, one.detail) for one in found] == [
        ("cut off", "by the lower edge"),
        ("ok", ""),
        ("cut off", "by the lower edge"),
        ("cut off", "by the lower edge"),
        ("outside the scan", "none of the vertebrae beside it is seen"),
    ]
    assert all(SEVERITY[one.finding] == 0 for one in found)


def test_a_narrow_field_of_view_cuts_too() -> None:
    [liver, *_] = judge(Mask(abdomen()[:, :, 20:], AFFINE), TOTALSEGMENTATOR_V2, ABDOMEN_ORGANS)
    assert (liver.finding, liver.detail) == ("cut off", "by the right edge")


def test_without_a_spine_nobody_knows_what_is_missing() -> None:
    labels = np.where(abdomen() == LABEL["liver"], 1, 0).astype(np.uint8)
    found = judge(Mask(labels, AFFINE), {1: "liver"}, ABDOMEN_ORGANS)
    assert [one.finding for one in found] == ["ok", *["absent, level unknown"] * 4]


def test_an_abdomen_is_no_chest_without_lungs() -> None:
    found = judge(Mask(abdomen()[28:], AFFINE), TOTALSEGMENTATOR_V2, CHEST_ORGANS)
    assert {one.finding for one in found} == {"outside the scan"}


def test_the_worst_come_first_in_table_and_page(tmp_path: Path) -> None:
    variants = {"a_good": abdomen(), "b_gone": spleen_gone(abdomen()), "c_swapped": kidneys_swapped(abdomen())}
    scans = []
    for name, labels in variants.items():
        write_nifti(tmp_path / f"{name}_ct.nii.gz", np.where(labels > 0, 100, -800).astype(np.int16), AFFINE)
        write_nifti(tmp_path / f"{name}.nii.gz", labels, AFFINE, TOTALSEGMENTATOR_V2)
        scans.append(Scan(name, tmp_path / f"{name}_ct.nii.gz", mask=tmp_path / f"{name}.nii.gz"))
    (tmp_path / "d.nii.gz").write_bytes(b"not a mask")
    scans.append(Scan("d_<broken>", scans[0].path, mask=tmp_path / "d.nii.gz"))
    scans.append(Scan("e_none", scans[0].path))
    qualities = check_masks(scans, ABDOMEN_ORGANS, workers=0, progress=False)
    assert [quality.scan.case_id for quality in qualities] == ["c_swapped", "d_<broken>", "b_gone", "a_good"]
    rows = list(csv.DictReader(quality_table(qualities).decode().splitlines()))
    assert len(rows) == 3 * 5 + 1
    assert rows[2] | {"mask": ""} == {
        "case_id": "c_swapped",
        "organ": "kidney_left",
        "millilitres": "160.0",
        "finding": "swapped",
        "detail": "on the wrong side of kidney right",
        "mask": "",
    }
    page = build_masks_page(qualities, ABDOMEN_ORGANS, without_mask=1)
    assert "4 masks, 3 of them worth a look; 1 scans have no mask." in page
    assert page.count("<img ") == 2, "pictures of the two that are worth a look and can be read"
    assert 'alt="Axial and coronal slices of c_swapped' in page
    assert "d_&lt;broken&gt;" in page
    assert "d_<broken>" not in page
    assert "://" not in page.replace("http://www.w3.org", ""), "the page needs no network"


def test_a_slab_that_is_upside_down_against_its_scan_is_unusable(tmp_path: Path) -> None:
    labels = abdomen()[50:56]
    labels[3:, 12:24, 10:30] = LABEL["colon"]
    noise = np.random.default_rng(0).normal(0, 10, labels.shape)
    tissue = np.select([labels == LABEL["liver"], labels == LABEL["colon"], labels > 0], [110, -40, 60], -100)
    write_nifti(tmp_path / "ct.nii.gz", (np.where(np.arange(80) > 74, -1000, tissue) + noise).astype(np.int16), AFFINE)
    scans = []
    for name, found in (("lying", labels), ("turned", labels[::-1])):
        write_nifti(tmp_path / f"{name}.nii.gz", np.ascontiguousarray(found), AFFINE, TOTALSEGMENTATOR_V2)
        scans.append(Scan(name, tmp_path / "ct.nii.gz", mask=tmp_path / f"{name}.nii.gz"))
    turned, lying = check_masks(scans, ABDOMEN_ORGANS, workers=0, progress=False)
    assert [turned.scan.case_id, *(one.finding for one in turned.findings)] == ["turned", "unusable"]
    assert "upside down" in turned.findings[0].detail
    assert {one.finding for one in lying.findings} <= {"ok", "cut off", "missing", "outside the scan", "too small",
                                                       "absent, level unknown"}  # fmt: skip
