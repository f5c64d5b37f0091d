"""Voxels that are no HU are refused with what was seen; what is certain is mended; true scans pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scan_files import (
    AFFINE,
    NO_SHARED_DATA,
    SHARED_DATA,
    body_voxels,
    turned,
    write_dicom_series,
    write_dicom_slice,
    write_nifti_file,
)

from anatobench.errors import CaseError
from anatobench.volumes.hounsfield import why_not_hounsfield
from anatobench.volumes.read import read_volume
from anatobench.volumes.volume import HeaderOverride

BODY = np.maximum(body_voxels(), -1024)


def as_int16(values: np.ndarray) -> np.ndarray:
    stored: np.ndarray = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return stored


def windowed(low: float, high: float, top: float) -> np.ndarray:
    return as_int16(np.clip((BODY.astype(float) - low) / (high - low), 0, 1) * top)


def padded(voxels: np.ndarray, value: int, radius: float = 1) -> np.ndarray:
    padded = voxels.copy()
    h, w = (np.linspace(-1, 1, n) for n in voxels.shape[1:])
    padded[:, np.hypot(h[:, None], w[None]) > radius] = value
    return padded


def corner(voxels: np.ndarray, value: int) -> np.ndarray:
    filled = voxels.copy()
    filled[-4:, :5, -5:] = value
    return filled


CORNER = (np.arange(24)[:, None] + np.arange(24)[None] < 7)[None]
NO_HOUNSFIELD: dict[str, tuple[str, np.ndarray]] = {
    "blank": ("nearly every voxel is 0", np.zeros_like(BODY)),
    "a constant": ("nearly every voxel is -1000", np.full_like(BODY, -1000)),
    "0..1": ("run from 0 to 1", windowed(-160, 240, 1)),
    "-1..1": ("run from -1 to 1", as_int16(windowed(-160, 240, 2) - 1)),
    "0..255": ("run from 0 to 255", windowed(-160, 240, 255)),
    "+ 1024": ("1024 were not subtracted", as_int16(BODY.astype(float) + 1024)),
    "+ 1000": ("1024 were not subtracted", as_int16(BODY.astype(float) + 1000)),
    "+ 1024 in a frame of air": ("near 1024", padded(as_int16(BODY.astype(float) + 1024), -1000)),
    "+ 1024 in a frame of padding": (
        "neither air at -1000 nor fat",
        padded(as_int16(BODY.astype(float) + 1024), -2000),
    ),
    "- 1024": ("below -1300", as_int16(BODY.astype(float) - 1024)),
    "- 8192": ("below -1300", as_int16(BODY.astype(float) - 8192)),
    "x 10": ("below -1300", as_int16(BODY.astype(float) * 10)),
    "tissue x 200": ("which metal alone is", as_int16(np.where(BODY > 0, BODY.astype(float) * 200, BODY))),
    "12 bits wrapped": ("without air", (BODY & 0x0FFF).astype(np.int16)),
    "16 bits saturated": ("beyond what 16 bits hold", np.where(BODY < 0, 32767, BODY).astype(np.int16)),
    "cut to a window": ("lowest value -160", np.clip(BODY, -160, 240)),
    "a trunk - 1024": ("subtracted twice", as_int16(BODY.astype(float) - 1024)[:, 5:19, 3:21]),
    "a frame of zeros": ("corners of its slices are exactly 0", padded(np.pad(BODY, ((0, 0), (4, 4), (4, 4))), 0)),
    "a frame of 3000": ("value 3000: cut to a window, or filled in", padded(BODY, 3000)),
    "-128..127": ("lowest: it was scaled", as_int16(windowed(-1024, 600, 255).astype(float) - 128)),
    "/ 10": ("lowest: it was scaled", as_int16(BODY / 10.0)),
    "tissue and fat - 1024": (
        "where fat lies",
        as_int16(np.where(BODY < -500, -100, BODY).astype(float) - 1024)[:, 6:18, 4:20],
    ),
    "corners of zeros": ("corners of its slices are exactly 0", padded(BODY, 0, 1.2)),
    "corners of -500": ("corners of its slices are exactly -500", padded(BODY, -500, 1.2)),
    "corners of 2000": ("corners of its slices are exactly 2000", padded(BODY, 2000, 1.2)),
    "slices of zeros": ("2 of its slices hold nothing but 0", np.concatenate([BODY, np.zeros_like(BODY[:2])])),
    "+ 200": ("air lies at -[78][0-9]+ instead of -1000, and fat and muscle", as_int16(BODY + 200.0)),
    "+ 300": ("air lies at -[67][0-9]+ instead", as_int16(BODY + 300.0)),
    "- 200": ("air lies at -1[12][0-9]+ instead", as_int16(BODY - 200.0)),
    "- 300": ("air lies at -1[23][0-9]+ instead", as_int16(BODY - 300.0)),
    "+ 200 in padding of -1024": ("air lies at -[78]", padded(as_int16(BODY + 200.0), -1024, 1.2)),
    "a window stretched": (
        "a window was stretched",
        as_int16(np.clip((np.repeat(BODY, 12, 0).astype(float) + 160) / 400, 0, 1).round(3) * 2000 - 1000),
    ),
    "grey values stretched": (
        "a window was stretched",
        as_int16(np.repeat(windowed(-160, 240, 255), 12, 0) * (2000 / 255) - 1000),
    ),
    "a corner of zeros": ("a corner of it is filled with 0", corner(BODY, 0)),
    "a corner of 37": ("a corner of it is filled with 37", corner(BODY, 37)),
    "a corner of 700, the densest": ("a corner of it is filled with 760", np.where(CORNER, 760, np.minimum(BODY, 760))),
    "a corner of 3071": ("a corner of it is filled with 3071", corner(BODY, 3071)),
    "+ 600": ("denser than lung only .* another slope or intercept", as_int16(BODY + 600.0)),
    "- 600": ("below -1300", as_int16(BODY - 600.0)),
    "a window of 1800 HU over 2048": ("denser than lung only", as_int16(windowed(-500, 1300, 2047) - 1024.0)),
    "half of the slope": ("denser than lung only|none near -1000|lowest", as_int16(BODY * 0.5)),
    "half of the slope above -1024": ("denser than lung only", as_int16((BODY + 1024.0) / 2 - 1024)),
    "12 bits wrapped, with an intercept": ("denser than lung", ((BODY & 0x0FFF) - 1024).astype(np.int16)),
    "0..255 with an intercept": ("grey values of 8 bits", as_int16(windowed(-160, 240, 255) - 1024.0)),
    "0..127 with an intercept": ("grey values of 8 bits", as_int16(windowed(-160, 240, 127) - 1000.0)),
    "air alone": ("neither tissue nor lung", as_int16(np.random.default_rng(0).normal(-1000, 10, BODY.shape))),
}
HOUNSFIELD: dict[str, np.ndarray] = {
    "a body": BODY,
    "clipped to -1000..1000": np.clip(BODY, -1000, 1000),
    "clipped to the chest window": np.clip(BODY, -1000, 200),
    "in a lung window": np.clip(BODY, -1350, 150),
    "padded with -2000": padded(BODY, -2000),
    "padded with -3024": padded(BODY, -3024),
    "padded with -32768": padded(BODY, -32768),
    "corners of -2048": padded(BODY, -2048, 1.2),
    "slices of air": np.concatenate([BODY, np.full_like(BODY[:2], -1000)]),
    "cropped to the trunk": BODY[3:9, 6:18, 4:20],
    "cropped to tissue and fat": np.where(BODY < -500, -100, BODY)[:, 6:18, 4:20],
    "lungs alone": np.where(BODY < -300, BODY, -1000)[:, 6:18, 2:22],
    "with metal": np.where(np.random.default_rng(0).random(BODY.shape) < 0.05, 3071, BODY),
    "with metal on an extended scale": np.where(np.random.default_rng(0).random(BODY.shape) < 0.02, 20000, BODY),
    "+ 100": as_int16(BODY + 100.0),
    "even noise": np.random.default_rng(0).integers(-1000, 2200, BODY.shape).astype(np.int16),
    "lungs alone, flat": np.where(np.abs(BODY + 850) < 60, BODY, -1000),
    "half consolidated lung": np.where(np.random.default_rng(0).random(BODY.shape) < 0.3, -450, BODY)[:, 6:18, 4:20],
    "lungs and trunk without air around": np.where(BODY < -900, -850, BODY)[:, 5:19, 4:20],
    "every second value": as_int16(BODY // 2 * 2),
    "every fifth value, clipped": as_int16(np.clip(BODY // 5 * 5, -1000, 1000)),
    "a corner of air": corner(BODY, -1000),
    "without noise": np.select([BODY < -500, BODY > 300], [-1000, 500], 40).astype(np.int16),
}


@pytest.mark.parametrize("kind", NO_HOUNSFIELD)
def test_what_is_no_hounsfield_is_refused_with_what_was_seen(tmp_path: Path, kind: str) -> None:
    seen, voxels = NO_HOUNSFIELD[kind]
    path = write_nifti_file(tmp_path / "scan.nii", *turned(voxels, AFFINE, "RAS"))
    with pytest.raises(CaseError, match=seen) as caught:
        read_volume(path)
    assert caught.value.reason == "not-hounsfield"
    assert str(path) in str(caught.value)
    assert "--rescale hu" in str(caught.value)
    np.testing.assert_array_equal(read_volume(path, rescale="hu").voxels, voxels)


@pytest.mark.parametrize("kind", HOUNSFIELD)
def test_true_scans_pass(kind: str) -> None:
    assert why_not_hounsfield(HOUNSFIELD[kind].astype(np.int16)) is None


def test_a_scan_without_air_is_named(tmp_path: Path) -> None:
    path = write_nifti_file(tmp_path / "s.nii", *turned(HOUNSFIELD["cropped to tissue and fat"], AFFINE, "RAS"))
    assert "as light as air" in read_volume(path).notes[0]


def dicom(folder: Path, stored: Callable[[np.ndarray], np.ndarray], voxels: np.ndarray = BODY, **tags: Any) -> Path:
    folder.mkdir()
    for number, plane in enumerate(voxels):
        words = stored(plane.astype(np.int32)).astype(np.uint16)
        write_dicom_slice(folder / f"{number}.dcm", words, (-40, -50, 60 - 3 * number), **tags)
    return folder


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_words_under_an_unsigned_tag_are_mended(tmp_path: Path, bits: int) -> None:
    mask = (1 << bits) - 1
    path = dicom(tmp_path / "s", lambda plane: plane & mask, RescaleIntercept=0, BitsStored=bits)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert "signed" in volume.notes[0]


def test_unsigned_words_under_a_signed_tag_are_mended(tmp_path: Path) -> None:
    """Bone and metal above 1023 HU would become what is lighter than air, and then air."""
    voxels = BODY.copy()
    voxels[:, 16:18, 11:13] = 1800
    path = dicom(tmp_path / "s", lambda plane: plane + 1024, voxels, BitsStored=12, PixelRepresentation=1)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert "says signed" in volume.notes[0]


def test_padding_of_signed_words_is_no_wrapped_bone(tmp_path: Path) -> None:
    voxels = padded(BODY, -2000)
    path = dicom(tmp_path / "s", lambda plane: plane, voxels, BitsStored=12, PixelRepresentation=1, RescaleIntercept=0)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.notes == ()


def test_dense_metal_that_wrapped_among_tissue_is_mended(tmp_path: Path) -> None:
    """Just above what 12 signed bits hold it becomes -1025, which air may be."""
    voxels = BODY.copy()
    voxels[:, 15:19, 10:14] = 3071
    path = dicom(tmp_path / "s", lambda plane: plane + 1024, voxels, BitsStored=12, PixelRepresentation=1)
    np.testing.assert_array_equal(read_volume(path).voxels, voxels)


@pytest.mark.parametrize("intercept", [0, -1024])
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("radius", [1.0, 1.2])
def test_negative_padding_is_no_wrapped_bone(tmp_path: Path, intercept: int, tagged: bool, radius: float) -> None:
    """Read as unsigned words the padding alone would be the air that is looked for."""
    stored = padded(as_int16(BODY.astype(float) - intercept), -2000, radius)
    tags = {"PixelPaddingValue": -2000} if tagged else {}
    path = dicom(tmp_path / "s", lambda plane: plane, stored, BitsStored=12, PixelRepresentation=1,
                 RescaleIntercept=intercept, **tags)  # fmt: skip
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, stored + intercept)
    assert volume.notes == ()


@pytest.mark.parametrize("number", [0, 5, 11])
def test_one_slice_that_lost_its_intercept_refuses_the_scan(tmp_path: Path, number: int) -> None:
    path = dicom(tmp_path / "s", lambda plane: plane + 1024)
    dataset = pydicom.dcmread(path / f"{number}.dcm")
    dataset.RescaleIntercept = 0
    dataset.save_as(path / f"{number}.dcm")
    with pytest.raises(CaseError, match=rf"{number}\.dcm.*not those of the others"):
        read_volume(path)


@pytest.mark.parametrize("number", [0, 5, 11])
@pytest.mark.parametrize("intercept", [-1000, -924, -1124, -1074])
def test_a_slice_whose_words_go_on_and_whose_intercept_does_not_refuses_the_scan(
    tmp_path: Path, number: int, intercept: int
) -> None:
    path = dicom(tmp_path / "s", lambda plane: plane + 1024)
    dataset = pydicom.dcmread(path / f"{number}.dcm")
    dataset.RescaleIntercept = intercept
    dataset.save_as(path / f"{number}.dcm")
    with pytest.raises(CaseError, match=rf"{number}\.dcm: its RescaleSlope and RescaleIntercept are not those of"):
        read_volume(path)
    assert len(read_volume(path, rescale="hu").voxels) == len(BODY)


def test_a_rescaling_of_its_own_for_each_slice_is_read(tmp_path: Path) -> None:
    for number, plane in enumerate(BODY):
        intercept, slope = -1024 - 50 * number, 1 + number % 3
        words = np.rint((plane.astype(float) - intercept) / slope).astype(np.uint16)
        (tmp_path / "s").mkdir(exist_ok=True)
        write_dicom_slice(tmp_path / "s" / f"{number}.dcm", words, (-40, -50, 60 - 3 * number),
                          RescaleIntercept=intercept, RescaleSlope=slope)  # fmt: skip
    assert np.abs(read_volume(tmp_path / "s").voxels - BODY.astype(int)).max() <= 1


def test_a_lost_intercept_is_no_signed_word(tmp_path: Path) -> None:
    path = dicom(tmp_path / "s", lambda plane: plane + 1024, RescaleIntercept=0, BitsStored=12)
    with pytest.raises(CaseError, match="1024 were not subtracted"):
        read_volume(path)


@pytest.mark.parametrize("stated", ["MGML", "HU_MOD", "ED", "Z_EFF"])
def test_another_rescale_type_is_refused(tmp_path: Path, stated: str) -> None:
    path = dicom(tmp_path / "s", lambda plane: plane + 1024, RescaleType=stated)
    with pytest.raises(CaseError, match=f"RescaleType is {stated}, not HU.*--rescale hu"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, rescale="hu").voxels, BODY)


@pytest.mark.parametrize("stated", ["HU", "hu", "", "US"])
def test_a_rescale_type_that_says_nothing_else_is_believed(tmp_path: Path, stated: str) -> None:
    volume = read_volume(dicom(tmp_path / "s", lambda plane: plane + 1024, RescaleType=stated))
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert any("RescaleType is US" in note for note in volume.notes) == (stated == "US")


def test_unsigned_nifti_words_that_are_signed_are_mended(tmp_path: Path) -> None:
    array, affine = turned(BODY.view(np.uint16), AFFINE, "RAS")
    volume = read_volume(write_nifti_file(tmp_path / "s.nii.gz", array, affine))
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert "unsigned" in volume.notes[0]


def test_unsigned_words_with_32768_added_are_refused(tmp_path: Path) -> None:
    array, affine = turned((BODY.astype(np.int32) + 32768).astype(np.uint16), AFFINE, "RAS")
    with pytest.raises(CaseError, match=r"32768|16 bits"):
        read_volume(write_nifti_file(tmp_path / "s.nii.gz", array, affine))


@pytest.mark.parametrize("intercept", [-1024.0, -8192.0])
def test_what_is_hounsfield_already_is_not_rescaled_by_the_metadata(tmp_path: Path, intercept: float) -> None:
    """CT-RATE's files saved again in HU, with an identity affine, under the originals' names."""
    array, affine = turned(BODY, AFFINE, "LPS")
    header = HeaderOverride(1.0, intercept, affine)
    volume = read_volume(write_nifti_file(tmp_path / "hu.nii.gz", array, np.eye(4)), header)
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert "twice" in volume.notes[0]
    raw = (array.astype(np.float32) - intercept).astype(np.float32)
    volume = read_volume(write_nifti_file(tmp_path / "raw.nii.gz", raw, np.eye(4)), header)
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert volume.notes == ()


def test_npz_is_judged_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "trn1.npz", ct=BODY)
    np.testing.assert_array_equal(read_volume(tmp_path / "trn1.npz").voxels, BODY)
    np.savez(tmp_path / "trn2.npz", ct=windowed(-160, 240, 255))
    with pytest.raises(CaseError, match="0 to 255"):
        read_volume(tmp_path / "trn2.npz")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.exists(), reason=NO_SHARED_DATA)
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct_small.nii.gz", "dicom"])
def test_real_scans_and_their_crops_pass(name: str) -> None:
    voxels = read_volume(SHARED_DATA / name).voxels
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        size = [int(rng.integers(max(2, n // 2), n + 1)) for n in voxels.shape]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(voxels.shape, size, strict=True)]
        crop = voxels[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))]
        refused += why_not_hounsfield(crop) is not None
    assert refused == 0


def test_a_plain_series_has_no_notes(tmp_path: Path) -> None:
    assert read_volume(write_dicom_series(tmp_path / "s", BODY)).notes == ()
