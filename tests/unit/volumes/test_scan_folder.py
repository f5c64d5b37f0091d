"""Whatever lies in a folder of scans is taken, or named with the reason why not; a pipe is never waited for."""

import os
from pathlib import Path

import numpy as np
import pytest
from scan_files import AFFINE, body_voxels, turned, write_dicom_series, write_nifti_file

from anatobench.errors import CaseError
from anatobench.masks.scans import scans_in_folder
from anatobench.volumes.read import read_volume
from anatobench.volumes.scan_folder import find_scans


def fill(root: Path) -> None:
    (root / "deep").mkdir(parents=True)
    array, affine = turned(body_voxels(), AFFINE, "RAS")
    write_nifti_file(root / "a.nii.gz", array, affine)
    for name in ("UPPER.NII.GZ", "deep/B.Nii", "bad.mha", "volume.nrrd", "all.zip"):
        (root / name).write_bytes((root / "a.nii.gz").read_bytes())
    with open(os.fsencode(root) + b"/caf\xe9.nii.gz", "wb") as file:
        file.write((root / "a.nii.gz").read_bytes())
    (root / "link.nii.gz").symlink_to(root / "a.nii.gz")
    (root / "gone.nii.gz").symlink_to(root / "nowhere")
    (root / "elsewhere").symlink_to(root / "deep")
    os.mkfifo(root / "pipe.nii.gz")
    os.mkfifo(root / "pipe")
    (root / "notes.txt").write_text("no scan")
    (root / ".hidden.nii").write_text("no scan")
    series = write_dicom_series(root / "bare", np.maximum(body_voxels(), -1024))
    for path in list(series.iterdir()):
        content = path.read_bytes()
        path.with_suffix("").write_bytes(content[132 + 12 + int.from_bytes(content[140:144], "little") :])
        path.unlink()
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 80)
    (root / "damaged").mkdir()
    (root / "damaged" / "1.DCM").write_bytes(b"x" * 200)


TAKEN = {"a.nii.gz", "UPPER.NII.GZ", "deep/B.Nii", "caf\udce9.nii.gz", "link.nii.gz", "bare", "damaged"}
NAMED = {
    "bad.mha": "unsupported-format",
    "volume.nrrd": "unsupported-format",
    "all.zip": "unsupported-format",
    "gone.nii.gz": "unreadable",
    "elsewhere": "linked-folder",
    "pipe.nii.gz": "not-a-file",
    "pipe": "not-a-file",
}


def test_everything_is_taken_or_named(tmp_path: Path) -> None:
    fill(tmp_path / "scans")
    found = find_scans(tmp_path / "scans")
    assert {path.relative_to(tmp_path / "scans").as_posix() for path in found.scans} == TAKEN
    assert {one.path.relative_to(tmp_path / "scans").as_posix(): one.reason for one in found.passed_over} == NAMED
    for one in found.passed_over:
        assert str(one.path) in one.message


def test_a_folder_of_folders_says_which_one_to_give(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "patient" / "study" / "series", np.maximum(body_voxels(), -1024))
    with pytest.raises(CaseError, match="give the folder in which the slices themselves lie"):
        read_volume(tmp_path / "patient")
    assert find_scans(tmp_path).scans == (tmp_path / "patient" / "study" / "series",)


def test_masks_names_what_it_passes_over(tmp_path: Path) -> None:
    fill(tmp_path / "scans")
    scans, rejected = scans_in_folder(tmp_path / "scans", tmp_path / "masks")
    assert {scan.case_id for scan in scans} == {"a", "UPPER", "deep_B", "caf_", "link", "bare", "damaged"}
    assert {Path(one.path).name: one.reason for one in rejected} == NAMED


def test_a_folder_to_leave_out_is_not_entered(tmp_path: Path) -> None:
    fill(tmp_path / "scans")
    found = find_scans(tmp_path / "scans", (tmp_path / "scans" / "deep",))
    assert not any("deep" in path.parts for path in found.scans)


@pytest.mark.parametrize("name", ["a.nii.xz", "a.nii.gz.part", "A.HDR", "a.npy", "a.tiff", "a.h5"])
def test_other_formats_and_interrupted_copies_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    [one] = find_scans(tmp_path).passed_over
    assert (one.path.name, one.reason) == (name, "unsupported-format")


@pytest.mark.parametrize(
    "name",
    ["a.nii.gz.bak", "a.nii.gz~", "a.nii.old", "a.nii.gz.1", "A.NII.GZ_copy", "a.dcm.bak", "a.nii.lz4", "a.mha.gz",
     "a.mat", "a.vti", "a.raw", "a.dcm.bz2"],
)  # fmt: skip
def test_copies_and_more_formats_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    found = find_scans(tmp_path)
    assert found.scans == ()
    assert [one.path.name for one in found.passed_over] == [name]


@pytest.mark.parametrize("name", ["scan", "scan.gz", "scan.img2", "0001"])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_under_another_name_is_named(tmp_path: Path, name: str, packed: bool) -> None:
    array, affine = turned(body_voxels(), AFFINE, "RAS")
    path = write_nifti_file(tmp_path / ("s.nii.gz" if packed else "s.nii"), array, affine)
    path.rename(tmp_path / name)
    [one] = find_scans(tmp_path).passed_over
    assert "holds NIfTI under another name" in one.message


@pytest.mark.parametrize("name", ["a.nii.gz.json", "a.nii.gz.md5", "notes.txt", "a.json", "labels.csv"])
def test_what_stands_beside_scans_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    assert find_scans(tmp_path).passed_over == ()
