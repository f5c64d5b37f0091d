"""Every way in which a scan or mask file can be bad, and the keyword that it is rejected with."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scan_files import AFFINE, distinct_voxels, turned, write_dicom_series, write_dicom_slice, write_nifti_file

from anatobench.errors import CaseError
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.volume import HeaderOverride

SCAN, SCAN_AFFINE = turned(distinct_voxels(), AFFINE, "RAS")
PIXELS = np.full((6, 7), 1000, np.uint16)

Maker = Callable[[Path], Path]


def unlink(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink()


def nifti(
    array: np.ndarray = SCAN, affine: np.ndarray | None = SCAN_AFFINE, name: str = "s.nii", **header: Any
) -> Maker:
    return lambda folder: write_nifti_file(folder / name, array, affine, **header)


def cut(maker: Maker, keep: float) -> Maker:
    def make(folder: Path) -> Path:
        path = maker(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        return path

    return make


def without_last_bytes(maker: Maker, count: int) -> Maker:
    def make(folder: Path) -> Path:
        path = maker(folder)
        path.write_bytes(path.read_bytes()[:-count])
        return path

    return make


def patched(maker: Maker, change: Callable[[bytearray], None]) -> Maker:
    def make(folder: Path) -> Path:
        path = maker(folder)
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)
        return path

    return make


def with_bytes(name: str, content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def with_voxel(value: float) -> np.ndarray:
    array = np.zeros((4, 4, 4), np.float32)
    array[1, 2, 3] = value
    return array


def spaced(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


def flip_a_bit(content: bytearray) -> None:
    content[len(content) // 2] ^= 0xFF


def nan_origin() -> np.ndarray:
    affine = SCAN_AFFINE.copy()
    affine[0, 3] = np.nan
    return affine


NIFTI_FAULTS = {
    "missing": ("missing", lambda folder: folder / "nowhere.nii.gz"),
    "gzip cut short": ("truncated", cut(nifti(name="s.nii.gz"), 0.6)),
    "gzip cut in the header": ("truncated", cut(nifti(name="s.nii.gz"), 0.1)),
    "gzip without its checksum": ("truncated", without_last_bytes(nifti(name="s.nii.gz"), 6)),
    "gzip with a flipped bit": ("truncated", patched(nifti(name="s.nii.gz"), flip_a_bit)),
    "plain cut short": ("truncated", cut(nifti(), 0.8)),
    "empty": ("truncated", with_bytes("s.nii", b"")),
    "text": ("not-nifti", with_bytes("s.nii.gz", b"<html>403 Forbidden</html>" * 40)),
    "gzipped text": ("not-nifti", with_bytes("s.nii.gz", gzip.compress(b"not an image at all" * 100))),
    "NaN": ("nan", nifti(with_voxel(np.nan))),
    "infinity": ("nan", nifti(with_voxel(np.inf))),
    "zero spacing": ("bad-spacing", nifti(srow_x=[0, 0, 0, 0], srow_y=[0, 1, 0, 0], srow_z=[0, 0, 1, 0])),
    "zero pixdim": ("bad-spacing", nifti(pixdim=[1, 1, 1, 0, 0, 0, 0, 0])),
    "negative pixdim, qform": ("bad-spacing", nifti(pixdim=[1, 1, -1, 2, 0, 0, 0, 0], sform_code=0, qform_code=1)),
    "NaN pixdim": ("bad-spacing", nifti(pixdim=[1, 1, np.nan, 2, 0, 0, 0, 0])),
    "absurd spacing": ("bad-spacing", nifti(affine=spaced(1, 1, 400))),
    "microscopic spacing": ("bad-spacing", nifti(affine=spaced(0.001, 1, 1))),
    "NaN affine": ("bad-affine", nifti(affine=nan_origin())),
    "parallel axes": (
        "bad-affine",
        nifti(affine=np.array([[1.0, 1, 0, 0], [0, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    ),
    "no orientation": ("no-orientation", nifti(sform_code=0, qform_code=0)),
    "2-D": ("bad-dimensions", nifti(np.zeros((8, 8), np.int16), np.eye(4))),
    "one slice": ("bad-dimensions", nifti(np.zeros((8, 8, 1), np.int16), np.eye(4))),
    "4-D": ("bad-dimensions", nifti(np.zeros((8, 8, 4, 3), np.int16), np.eye(4))),
    "no axes": ("bad-dimensions", nifti(dim=[0, 1, 1, 1, 1, 1, 1, 1])),
    "negative axis": ("bad-dimensions", nifti(dim=[3, 6, -7, 5, 1, 1, 1, 1])),
    "claims 28 TB": ("too-large", nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1], name="s.nii.gz")),
    "claims 1 GB": ("truncated", nifti(dim=[3, 800, 800, 800, 1, 1, 1, 1], name="s.nii.gz")),
    "voxels start nowhere": ("bad-header", nifti(vox_offset=1e9)),
    "colour": ("bad-voxel-type", nifti(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))),
    "complex": ("bad-voxel-type", nifti(np.zeros((4, 4, 4), np.complex64), np.eye(4))),
    "unknown type": ("bad-voxel-type", nifti(datatype=999)),
    "slope without intercept": ("bad-rescale", nifti(scl_slope=1, scl_inter=np.inf)),
}


def npz(**arrays: Any) -> Maker:
    def make(folder: Path) -> Path:
        np.savez_compressed(folder / "trn1.npz", **arrays)
        return folder / "trn1.npz"

    return make


def npz_claiming(shape: tuple[int, ...]) -> Maker:
    def make(folder: Path) -> Path:
        header = str({"descr": "<i2", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
        with zipfile.ZipFile(folder / "trn1.npz", "w") as archive:
            archive.writestr("ct.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + b"\0" * 100)
        return folder / "trn1.npz"

    return make


def pickled(folder: Path) -> Path:
    np.savez(folder / "trn1.npz", ct=np.array([{"a": 1}], dtype=object))
    return folder / "trn1.npz"


def zip_of_text(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "trn1.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder / "trn1.npz"


def npz_with_header(old: bytes, new: bytes) -> Maker:
    def make(folder: Path) -> Path:
        buffer = io.BytesIO()
        np.save(buffer, distinct_voxels())
        assert buffer.getvalue().count(old) >= 1
        with zipfile.ZipFile(folder / "trn1.npz", "w") as archive:
            archive.writestr("ct.npy", buffer.getvalue().replace(old, new, 1))
        return folder / "trn1.npz"

    return make


NPZ_FAULTS = {
    "other key": ("bad-npz", npz(volume=distinct_voxels())),
    "float": ("bad-npz", npz(ct=distinct_voxels().astype(np.float32))),
    "pickle": ("bad-npz", pickled),
    "2-D": ("bad-dimensions", npz(ct=np.zeros((4, 4), np.int16))),
    "cut short": ("truncated", cut(npz(ct=distinct_voxels((20, 20, 20))), 0.5)),
    "flipped bit": ("truncated", patched(npz(ct=distinct_voxels((20, 20, 20))), flip_a_bit)),
    "claims 2 TB": ("too-large", npz_claiming((10000, 10000, 10000))),
    "claims 1 GB": ("truncated", npz_claiming((800, 800, 800))),
    "another zip archive": ("bad-npz", zip_of_text),
    **{
        f"header with {new!r}": ("bad-npz", npz_with_header(old, new))
        for old, new in ((b"}", b"("), (b"{", b"["), (b"'descr'", b"'descr\n"), (b"False", b"Fals+"), (b"(5", b"{5"))
    },
}


def series(change: Callable[[Path], object]) -> Maker:
    """Return a good series, then changed."""

    def make(folder: Path) -> Path:
        write_dicom_series(folder / "series", distinct_voxels())
        change(folder / "series")
        return folder / "series"

    return make


def retagged(name: str, **tags: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        dataset = pydicom.dcmread(folder / name)
        for tag, value in tags.items():
            if value is None:
                delattr(dataset, tag)
            else:
                setattr(dataset, tag, value)
        dataset.save_as(folder / name)

    return change


def cut_slice(keep: float, rle: bool = False) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stored = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
        for path in folder.iterdir():
            path.unlink()
        for number in range(3):
            path = write_dicom_slice(folder / f"{number}.dcm", stored, (0, 0, number), rle=rle)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return change


DICOM_FAULTS = {
    "empty folder": ("empty-series", series(lambda folder: unlink(folder.iterdir()))),
    "two series": ("several-series", series(retagged("3.dcm", SeriesInstanceUID="1.2.3.5"))),
    "a slice missing": ("missing-slices", series(lambda folder: (folder / "2.dcm").unlink())),
    "the same slice twice": (
        "duplicate-slices",
        series(lambda folder: (folder / "copy.dcm").write_bytes((folder / "2.dcm").read_bytes())),
    ),
    "uneven": ("uneven-slices", series(retagged("4.dcm", ImagePositionPatient=[-40, -50, 50]))),
    "a slice pushed aside": ("uneven-slices", series(retagged("2.dcm", ImagePositionPatient=[-20, -50, 54]))),
    "other size": ("inconsistent-slices", series(lambda f: write_dicom_slice(f / "2.dcm", PIXELS.T, (-40, -50, 54)))),
    "other spacing": ("inconsistent-slices", series(retagged("2.dcm", PixelSpacing=[1, 1]))),
    "other direction": ("inconsistent-slices", series(retagged("2.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, 1]))),
    "one slice": (
        "bad-dimensions",
        series(lambda folder: unlink(path for path in folder.iterdir() if path.name != "2.dcm")),
    ),
    "no position": ("no-geometry", series(retagged("2.dcm", ImagePositionPatient=None))),
    "no spacing": ("no-geometry", series(retagged("2.dcm", PixelSpacing=None))),
    "zero spacing": ("bad-spacing", series(retagged("2.dcm", PixelSpacing=[0, 0]))),
    "skewed directions": ("bad-affine", series(retagged("2.dcm", ImageOrientationPatient=[1, 0, 0, 1, 0, 0]))),
    "no rescaling": ("no-rescale", series(retagged("2.dcm", RescaleSlope=None, RescaleIntercept=None))),
    "zero slope": ("bad-rescale", series(retagged("2.dcm", RescaleSlope=0))),
    "several frames": ("multi-frame", series(retagged("2.dcm", NumberOfFrames=2))),
    "pixels cut short": ("truncated", series(cut_slice(0.7))),
    "RLE pixels cut short": ("truncated", series(cut_slice(0.7, rle=True))),
    "cut in the header": ("truncated", series(cut_slice(0.01))),
    "header claims more": (
        "truncated",
        series(lambda folder: [retagged(path.name, Rows=600)(folder) for path in list(folder.iterdir())]),
    ),
    "not DICOM": ("truncated", series(lambda folder: (folder / "2.dcm").write_bytes(b"\0" * 500))),
    "huge": ("too-large", series(retagged("2.dcm", Rows=65535, Columns=65535))),
    "one file of a series": ("single-dicom", lambda folder: series(lambda f: None)(folder) / "2.dcm"),
}


@pytest.mark.parametrize("fault", NIFTI_FAULTS)
def test_nifti(tmp_path: Path, fault: str) -> None:
    check(*NIFTI_FAULTS[fault], tmp_path)


@pytest.mark.parametrize("fault", NPZ_FAULTS)
def test_npz(tmp_path: Path, fault: str) -> None:
    check(*NPZ_FAULTS[fault], tmp_path)


@pytest.mark.parametrize("fault", DICOM_FAULTS)
def test_dicom(tmp_path: Path, fault: str) -> None:
    check(*DICOM_FAULTS[fault], tmp_path)


def check(reason: str, maker: Maker, folder: Path) -> None:
    path = maker(folder)
    with pytest.raises(CaseError) as caught:
        read_volume(path)
    assert caught.value.reason == reason, str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("labels", [[0.5, 1], [-1, 1], [70000, 1], [np.nan, 1]])
def test_a_mask_holds_whole_labels(tmp_path: Path, labels: list[float]) -> None:
    array = np.zeros((4, 4, 4))
    array[0, 0, :2] = labels
    path = write_nifti_file(tmp_path / "mask.nii", array, np.eye(4))
    with pytest.raises(CaseError) as caught:
        read_mask(path)
    assert caught.value.reason == "bad-mask"


def test_a_missing_mask(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        read_mask(tmp_path / "nowhere.nii.gz")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("bad-rescale", HeaderOverride(0.0, 0.0, np.eye(4))),
        ("bad-rescale", HeaderOverride(np.nan, 0.0, np.eye(4))),
        ("bad-spacing", HeaderOverride(1.0, 0.0, np.diag([0.0, 1, 1, 1]))),
        ("bad-affine", HeaderOverride(1.0, 0.0, np.full((4, 4), np.nan))),
    ],
)
def test_metadata_is_not_trusted_either(tmp_path: Path, reason: str, header: HeaderOverride) -> None:
    path = write_nifti_file(tmp_path / "scan.nii", SCAN, SCAN_AFFINE)
    with pytest.raises(CaseError) as caught:
        read_volume(path, header)
    assert caught.value.reason == reason


def test_a_label_table_is_never_expanded(tmp_path: Path) -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "liver">]><CaretExtension><LabelTable>'
    bomb += b'<Label Key="5">&a;</Label></LabelTable></CaretExtension>'
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, bomb))
    nibabel.save(image, tmp_path / "mask.nii.gz")
    assert read_mask(tmp_path / "mask.nii.gz").names is None
