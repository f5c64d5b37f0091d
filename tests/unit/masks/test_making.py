"""Masks are made once, for the scans that have none, and a bad scan costs itself alone."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scan_files import body_voxels, write_dicom_series
from stand_in_segmenter import ThresholdSegmenter

from anatobench.datasets.case import Listing, Rejection
from anatobench.errors import AnatoBenchError
from anatobench.masks import making
from anatobench.masks.folder import MasksFolder
from anatobench.masks.making import FAILURES_IN_A_ROW, Summary, make_masks, segment
from anatobench.masks.scans import Scan, scans_in_folder, scans_of_listing
from anatobench.system.worker_pool import WorkerPlace
from anatobench.volumes.coverage import coverage
from anatobench.volumes.nifti import read_nifti_mask, write_nifti
from anatobench.volumes.read import read_volume

AFFINE = np.array([[0, 0, -2.0, 70], [0, -2.5, 0, 60], [-4.0, 0, 0, 30], [0, 0, 0, 1]])


def write_scan(path: Path, seed: int = 0) -> Path:
    """16 x 30 x 40 voxels with a bright block of 40 x 25 x 40 mm that no mirroring leaves in place."""
    voxels = np.random.default_rng(seed).integers(-1500, 0, (16, 30, 40), dtype=np.int16)
    voxels[2:12, 4:14, 6:26] = 1400
    write_nifti(path, voxels, AFFINE)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a folder of five scans."""
    for number in range(5):
        write_scan(tmp_path / "raw" / f"scan_{number}.nii.gz", number)
    return tmp_path / "raw"


def make(raw: Path, masks: Path, segmenter: ThresholdSegmenter | None = None, **options: Any) -> Summary:
    scans, rejected = scans_in_folder(raw, masks)
    segmenter = segmenter or ThresholdSegmenter()
    return make_masks(scans, MasksFolder(masks), segmenter, listed_rejections=rejected, progress=False, **options)


def rejected_rows(masks: Path) -> dict[str, dict[str, str]]:
    with open(masks / "rejected.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def masks_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def test_a_mask_lies_on_the_papers_grid_over_the_whole_scan(tmp_path: Path) -> None:
    scan = Scan("one", write_scan(tmp_path / "one.nii.gz"))
    seen = []

    class Spy(ThresholdSegmenter):
        def segment(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
            seen.append((voxels.dtype.name, int(voxels.min()), int(voxels.max())))
            return super().segment(voxels, affine)

    labels, grid = segment(scan, read_volume(scan.path), Spy())
    assert seen == [("int16", -1000, 1000)], "HU is clipped as the paper does"
    assert labels.shape == (21, 50, 53)
    np.testing.assert_allclose(grid.spacing, (3.0, 1.5, 1.5))
    assert coverage(grid, read_volume(scan.path).grid) > 0.97
    found = grid.affine @ [*np.argwhere(labels).mean(axis=0), 1]
    np.testing.assert_allclose(found, AFFINE @ [6.5, 8.5, 15.5, 1], atol=1.0)


def test_masks_carry_names_and_what_made_them(raw: Path, tmp_path: Path) -> None:
    summary = make(raw, tmp_path / "masks")
    assert (summary.scans, summary.made, summary.rejected, summary.passed) == (5, 5, {}, True)
    mask = read_nifti_mask(tmp_path / "masks" / "scan_0.nii.gz")
    assert mask.labels.dtype == np.uint8
    assert mask.names is not None
    assert (mask.names[5], mask.names[117], len(mask.names)) == ("liver", "costal_cartilages", 117)
    assert nibabel.Nifti1Image.from_filename(tmp_path / "masks" / "scan_0.nii.gz").ndim == 3
    described = json.loads((tmp_path / "masks" / "masks.json").read_text())
    assert described == {"segmenter": "threshold", "threshold": 100, "spacing": [3.0, 1.5, 1.5], "hu": [-1000, 1000]}


def test_what_is_there_is_not_made_again(raw: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    make(raw, masks)
    (masks / "scan_3.nii.gz").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in masks.glob("*.nii.gz")}
    summary = make(raw, masks)
    assert (summary.made, summary.already_here) == (1, 4)
    assert {name: (masks / name).stat().st_mtime_ns for name in before} == before


def test_a_mask_of_the_data_sets_own_is_enough(make_raw_cohort: Callable[[int], Listing], tmp_path: Path) -> None:
    scans, rejected = scans_of_listing(make_raw_cohort(3))
    summary = make_masks(scans, MasksFolder(tmp_path / "masks"), ThresholdSegmenter(), progress=False)
    assert (summary.made, summary.already_here, summary.of_the_data_set) == (0, 0, 3)
    assert not masks_in(tmp_path / "masks")
    assert not rejected


def test_shards_and_workers_change_no_byte(raw: Path, tmp_path: Path) -> None:
    make(raw, tmp_path / "one")
    make(raw, tmp_path / "two", places=[WorkerPlace(), WorkerPlace(starts_processes=True)])
    assert [make(raw, tmp_path / "three", shard=(index, 3)).made for index in (2, 0, 1)] == [1, 2, 2]
    expected = masks_in(tmp_path / "one")
    assert len(expected) == 5
    assert masks_in(tmp_path / "two") == expected
    assert masks_in(tmp_path / "three") == expected


def test_a_bad_scan_is_written_down_and_passed_by(raw: Path, tmp_path: Path) -> None:
    (raw / "scan_1.nii.gz").write_bytes((raw / "scan_1.nii.gz").read_bytes()[:500])
    voxels = read_volume(raw / "scan_2.nii.gz").voxels
    write_nifti(raw / "scan_2.nii.gz", np.where(voxels > -20, -60 + voxels % 40, voxels), AFFINE)  # fat alone
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / ".scan_1.nii.gz.0123abcd.tmp").write_bytes(b"left behind by a killed job")
    summary = make(raw, tmp_path / "masks")
    assert (summary.made, summary.rejected) == (3, {"nothing-found": 1, "truncated": 1})
    rows = rejected_rows(tmp_path / "masks")
    assert {case_id: row["reason"] for case_id, row in rows.items()} == {
        "scan_1": "truncated",
        "scan_2": "nothing-found",
    }
    assert str(raw / "scan_1.nii.gz") in rows["scan_1"]["message"]
    assert not list((tmp_path / "masks").glob(".*.tmp"))

    write_scan(raw / "scan_1.nii.gz", 1)
    summary = make(raw, tmp_path / "masks")
    assert (summary.made, summary.rejected) == (1, {"nothing-found": 1})
    assert list(rejected_rows(tmp_path / "masks")) == ["scan_2"]


def test_odd_headers_in_a_row_are_not_the_segmenters_fault(tmp_path: Path) -> None:
    body = np.maximum(body_voxels(), -1024)
    for number in range(FAILURES_IN_A_ROW + 2):
        series = write_dicom_series(tmp_path / "raw" / f"a{number}", body)
        dataset = pydicom.dcmread(series / "3.dcm")
        dataset["Columns"] = pydicom.DataElement("Columns", "US", [24, 12337])
        dataset.save_as(series / "3.dcm")
    write_dicom_series(tmp_path / "raw" / "z_good", body)
    summary = make(tmp_path / "raw", tmp_path / "masks")
    assert (summary.made, summary.rejected) == (1, {"bad-header": FAILURES_IN_A_ROW + 2})


def test_a_segmenter_that_always_fails_stops_the_run(raw: Path, tmp_path: Path) -> None:
    """A full disk or a broken driver must not turn thousands of good scans into rejected ones."""
    for number in range(5, 8):
        write_scan(raw / f"scan_{number}.nii.gz")
    with pytest.raises(AnatoBenchError, match=r"failed on 5 scans in a row.*no space left for tensors"):
        make(raw, tmp_path / "masks", ThresholdSegmenter(fault="raise"))
    assert len(rejected_rows(tmp_path / "masks")) == making.FAILURES_IN_A_ROW
    summary = make(raw, tmp_path / "masks")
    assert (summary.made, summary.rejected) == (8, {})


@pytest.mark.slow
def test_a_process_that_dies_is_no_end(raw: Path, tmp_path: Path) -> None:
    summary = make(raw, tmp_path / "masks", ThresholdSegmenter(fault="die"), places=[WorkerPlace()], shard=(0, 3))
    assert summary.rejected == {"worker-died": 2}
    assert not summary.passed


def test_masks_of_two_models_are_not_mixed(raw: Path, tmp_path: Path) -> None:
    make(raw, tmp_path / "masks", shard=(0, 2))
    with pytest.raises(AnatoBenchError, match="made with threshold 100, not 50: choose another folder"):
        make(raw, tmp_path / "masks", ThresholdSegmenter(threshold=50))


def test_a_folder_holds_scans_of_every_kind(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write_scan(root / "a" / "b.nii.gz")
    write_scan(root / "a_b.nii")
    write_scan(root / "masks" / "old.nii.gz")
    write_dicom_series(root / "series" / "1", np.zeros((3, 6, 7), np.int16))
    np.savez_compressed(root / "trn00001.npz", ct=np.zeros((2, 2, 2), np.int16))
    (root / "notes.txt").write_text("not a scan")
    (root / ".hidden.nii.gz").write_text("")
    scans, rejected = scans_in_folder(root, root / "masks")
    assert [scan.case_id for scan in scans] == ["a_b", "series_1", "trn00001"]
    assert scans[1].path == root / "series" / "1"
    assert [(one.case_id, one.reason) for one in rejected] == [("a_b", "duplicate-id")]
    assert scans_in_folder(root / "series" / "1", tmp_path / "masks")[0][0].case_id == "1"


def test_rejections_of_the_listing_are_kept(raw: Path, tmp_path: Path) -> None:
    scans, _ = scans_in_folder(raw, tmp_path / "masks")
    listed = [Rejection("x", "x.nii", "no-label", "has no label")]
    folder = MasksFolder(tmp_path / "masks")
    summary = make_masks(scans, folder, ThresholdSegmenter(), listed_rejections=listed, progress=False)
    assert summary.rejected == {"no-label": 1}
    assert list(rejected_rows(tmp_path / "masks")) == ["x"]


def test_a_disk_that_refuses_stops_the_run(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(raw, tmp_path / "masks", shard=(0, 5))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AnatoBenchError, match=r"cannot write .*: No space left.*again"):
            make(raw, tmp_path / "masks")
    assert not list((tmp_path / "masks").glob(".*.tmp"))
