"""Whole commands on input that lies: a wrong number is worse than a refusal, and one case is never the others' end."""

from __future__ import annotations

import csv
import json
import os
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scan_files import AFFINE, body_voxels, turned, write_dicom_series, write_nifti_file

from anatobench.cli.main import main
from anatobench.store.reader import Store
from anatobench.system.time_limit import VARIABLE

pytestmark = pytest.mark.usefixtures("workers_begin_at_once")
BODY = np.maximum(body_voxels(), -1024)


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_nifti_file(path, *turned(body_voxels(seed=seed), AFFINE, "RAS"))


def prepare(
    root: Path, rows: str, capsys: pytest.CaptureFixture[str], *more: str, status: int = 0
) -> tuple[dict[str, Any], str]:
    """Exit status as expected; the figures, and what is said to a person."""
    (root / "raw" / "manifest.csv").write_text(rows)
    words = ["prepare", "--dataset", "manifest", "--raw", str(root / "raw"), "--anatomy", "chest", "--size", "tiny"]
    found = main([*words, "--store", str(root / "store"), "--workers", "0", "--json", *more])
    captured = capsys.readouterr()
    assert found == status, captured.err
    return json.loads(captured.out.splitlines()[-1]) if captured.out else {}, captured.err


def rejected(root: Path) -> dict[str, dict[str, str]]:
    with open(root / "store" / "rejected.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_a_scan_that_is_no_hounsfield_is_refused_until_a_person_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "raw" / "b.nii.gz")
    write_nifti_file(tmp_path / "raw" / "a.nii.gz", *turned(BODY + 1024, AFFINE, "RAS"))
    rows = "scan,split,label:x\na.nii.gz,train,1\nb.nii.gz,test,0\n"
    figures, _ = prepare(tmp_path, rows, capsys)
    assert (figures["prepared"], figures["rejected"]) == (1, {"not-hounsfield": 1})
    assert "--rescale hu" in rejected(tmp_path)["a"]["message"]
    figures, _ = prepare(tmp_path, rows, capsys, "--rescale", "hu")
    assert (figures["prepared"], figures["rejected"], figures["cases_in_store"]) == (2, {}, 2)


def test_what_was_mended_stands_in_the_record_and_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom_series(tmp_path / "raw" / "s", BODY, PixelRepresentation=1, RescaleIntercept=0)
    for path in (tmp_path / "raw" / "s").iterdir():
        dataset = pydicom.dcmread(path)
        words = np.frombuffer(dataset.PixelData, np.uint16).astype(np.int32) - 1024
        dataset.PixelData = (words & 0x0FFF).astype(np.uint16).tobytes()
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        dataset.save_as(path)
    figures, said = prepare(tmp_path, "scan,split,label:x\ns,train,1\n", capsys)
    [case] = Store.open(tmp_path / "store").cases
    assert "signed" in case.notes[0]
    assert any("s: PixelRepresentation" in note for note in figures["notes"])
    assert "PixelRepresentation" in said


def test_masks_of_which_none_fits_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "raw" / "a.nii.gz")
    for name in ("a_seg.nii.gz", "b/liver.nii.gz"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti_file(tmp_path / "masks" / name, *turned(np.ones(BODY.shape, np.uint8), AFFINE, "RAS"))
    rows = "scan,split,label:x\na.nii.gz,train,1\n"
    _, said = prepare(tmp_path, rows, capsys, "--masks", str(tmp_path / "masks"), status=1)
    assert "none of its masks belongs to a scan" in said
    assert "a.nii.gz" in said
    assert "a_seg.nii.gz" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mask_of_three_slices_that_is_flipped_is_refused(
    tmp_path: Path, axis: int, capsys: pytest.CaptureFixture[str]
) -> None:
    voxels = body_voxels((3, 48, 48))
    voxels[0, 8:30, 8:40], voxels[2, 30:34, 20:28] = 60, 60
    voxels[:, 10:24, 26:38] = 60
    heart, lung = 51, 10
    labels = np.where(voxels > 20, heart, np.where((voxels < -700) & (voxels > -950), lung, 0)).astype(np.uint8)
    (tmp_path / "raw").mkdir()
    write_nifti_file(tmp_path / "raw" / "a.nii.gz", *turned(voxels, AFFINE, "RAS"))
    for name, mask in (("right", labels), ("turned", np.flip(labels, axis))):
        write_nifti_file(tmp_path / "raw" / f"{name}.nii.gz", *turned(mask, AFFINE, "RAS"))
    rows = "scan,case,mask,mask_labels,split,patient,label:x\n" + "".join(
        f"a.nii.gz,{name},{name}.nii.gz,totalsegmentator_v2,train,p,1\n" for name in ("right", "turned")
    )
    figures, _ = prepare(tmp_path, rows, capsys)
    assert figures["prepared"] == 1
    assert "fit the scan's HU clearly better" in rejected(tmp_path)["turned"]["message"]


@pytest.mark.parametrize("kind", ["same path", "link", "hard link", "copy", "other container", "dicom"])
def test_one_scan_in_two_splits_is_refused(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write_scan(tmp_path / "raw" / "a.nii.gz"), tmp_path / "raw" / "b.nii.gz"
    array, affine = turned(body_voxels(), AFFINE, "RAS")
    if kind == "same path":
        second = first
    elif kind == "link":
        second.symlink_to(first)
    elif kind == "hard link":
        os.link(first, second)
    elif kind == "copy":
        second.write_bytes(first.read_bytes())
    elif kind == "other container":
        second = tmp_path / "raw" / "b.nii"
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine + 0.0), second)
    else:
        second = write_dicom_series(tmp_path / "raw" / "b", np.maximum(body_voxels(), -1024))
        write_nifti_file(first, *turned(np.maximum(body_voxels(), -1024), AFFINE, "RAS"))
    rows = f"scan,split,patient,case,label:x\n{first.name},train,p1,x1,1\n{second.name},test,p2,x2,0\n"
    _, said = prepare(tmp_path, rows, capsys, status=1)
    assert "x1 in train and x2 in test are the same scan" in said
    if (tmp_path / "store").exists():
        words = ["train", "--task", "manifest", "--store", str(tmp_path / "store"), "--model", "r3d_18", "--framework"]
        assert main([*words, "torch", "--out", str(tmp_path / "run")]) == 1
        assert "are the same scan" in capsys.readouterr().err
    else:
        assert kind in ("same path", "link", "hard link")


@pytest.mark.parametrize(("one", "other"), [("P1", "p1"), ("007", "7"), ("P007", "P7"), ("12", "12.0")])
def test_patients_that_are_hardly_two_are_named(
    tmp_path: Path, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "raw" / "a.nii.gz"), write_scan(tmp_path / "raw" / "b.nii.gz", 1)
    rows = f"scan,split,patient,label:x\na.nii.gz,train,{one},1\nb.nii.gz,{{}},{other},0\n"
    _, said = prepare(tmp_path, rows.format("test"), capsys)
    assert f"{one!r} in train and {other!r} in test" in said
    _, said = prepare(tmp_path, rows.format("train"), capsys)
    assert "differ in letter case" not in said


def test_a_path_that_no_file_can_have_is_that_rows_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "raw" / "a.nii.gz")
    figures, _ = prepare(
        tmp_path, f"scan,split,case,label:x\na.nii.gz,train,a,1\n{'y' * 300}/b.nii.gz,train,b,0\n", capsys
    )
    assert (figures["prepared"], figures["rejected"]) == (1, {"bad-path": 1})


def compressed_series(folder: Path, syntax: str, fragment: bytes) -> Path:
    """Return a series whose second slice has a fragment of its own."""
    write_dicom_series(folder, BODY, rle=syntax == pydicom.uid.RLELossless)
    path = folder / "1.dcm"
    dataset = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([fragment])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, implicit_vr=False, little_endian=True)
    return folder


JP2_WITHOUT_END = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x14ftypjp2 \x00\x00\x00\x00jp2 " + bytes(200)
RLE_TOO_LONG = (2).to_bytes(4, "little") + (64).to_bytes(4, "little") + (3000).to_bytes(4, "little") + bytes(52) + (
    b"\x81\x00" * 3000)  # fmt: skip
JPEG_12 = b"\xff\xd8\xff\xc1\x00\x0b\x0c\x00\x18\x00\x18\x01\x01\x11\x00" + bytes(100)
BROKEN = {
    "JPEG 2000 that never ends": ("1.2.840.10008.1.2.4.90", JP2_WITHOUT_END, "truncated", "has length 0"),
    "RLE that panics": (pydicom.uid.RLELossless, RLE_TOO_LONG, "truncated", "pixel data is damaged"),
    "12-bit JPEG": ("1.2.840.10008.1.2.4.51", JPEG_12, "unsupported-pixels", "12-bit extended JPEG"),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", b"\xff\xd8\xff\xf7" + bytes(40), "unsupported-pixels", "no decoder for JPEG"),
    "no syntax at all": ("1e400", bytes(40), "unsupported-pixels", "no decoder for 1e400"),
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_fragment_costs_its_case_alone(
    tmp_path: Path, kind: str, workers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    syntax, fragment, reason, seen = BROKEN[kind]
    write_scan(tmp_path / "raw" / "a.nii.gz"), write_scan(tmp_path / "raw" / "c.nii.gz", 1)
    compressed_series(tmp_path / "raw" / "b", syntax, fragment)
    rows = "scan,split,label:x\na.nii.gz,train,1\nb,train,0\nc.nii.gz,train,1\n"
    figures, said = prepare(tmp_path, rows, capfd, "--workers", workers)
    assert (figures["prepared"], figures["rejected"]) == (2, {reason: 1})
    assert seen in rejected(tmp_path)["b"]["message"]
    assert "1.dcm" in rejected(tmp_path)["b"]["message"]
    assert "panicked" not in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_reading_that_never_ends_is_given_up(
    tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe under a scan's name stands for any file that keeps its reader waiting; here the check for it is off."""
    write_scan(tmp_path / "raw" / "a.nii.gz")
    os.mkfifo(tmp_path / "raw" / "b.nii.gz")
    rows = "scan,split,label:x\na.nii.gz,train,1\nb.nii.gz,train,0\n"
    figures, _ = prepare(tmp_path, rows, capsys, "--workers", workers)
    assert figures["rejected"] == {"not-a-file": 1}
    if workers == "0":
        monkeypatch.setattr("anatobench.volumes.read._check_regular", lambda path: None)
        monkeypatch.setenv(VARIABLE, "1")
        figures, _ = prepare(tmp_path, rows, capsys, "--workers", workers)
        assert figures["rejected"] == {"time-limit": 1}
        assert VARIABLE in rejected(tmp_path)["b"]["message"]


@pytest.mark.parametrize(
    "tag",
    [
        "Rows",
        "BitsStored",
        "SamplesPerPixel",
        "NumberOfFrames",
        "PixelRepresentation",
        "RescaleSlope",
        "ImagePositionPatient",
        "PixelSpacing",
        "ImageOrientationPatient",
    ],
)
@pytest.mark.parametrize("value", [[3, 4, 5, 6, 7, 8, 9], "", "12 pixels", "nan"])
def test_an_odd_tag_is_one_sentence_with_file_and_tag(
    tmp_path: Path, tag: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom_series(tmp_path / "raw" / "s", BODY)
    write_scan(tmp_path / "raw" / "a.nii.gz")
    path = tmp_path / "raw" / "s" / "3.dcm"
    dataset = pydicom.dcmread(path)
    text = "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    dataset[tag] = pydicom.DataElement(tag, "LO", text)
    dataset.save_as(path, implicit_vr=False, enforce_file_format=True)
    figures, _ = prepare(tmp_path, "scan,split,label:x\na.nii.gz,train,1\ns,train,0\n", capsys)
    if not figures["rejected"]:  # an empty tag that has a default
        assert value == ""
        return
    [row] = rejected(tmp_path).values()
    assert row["reason"] not in ("internal", "unreadable")
    assert "3.dcm" in row["message"]
    assert tag in row["message"] or row["reason"] in ("multi-frame", "too-large", "unsupported-pixels")
