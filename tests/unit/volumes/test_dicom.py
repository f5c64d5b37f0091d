from pathlib import Path

import numpy as np
import pydicom
import pytest
from scan_files import AFFINE, distinct_voxels, write_dicom_series, write_dicom_slice

from anatobench.volumes.dicom import read_dicom_series
from anatobench.volumes.volume import Volume

Direction = tuple[float, float, float]


def body_with_air() -> np.ndarray:
    """[D, H, W] with air around distinct soft tissue, as every CT has."""
    voxels = np.full((5, 8, 9), -1000, np.int16)
    voxels[:, 2:6, 2:7] = np.arange(5 * 4 * 5).reshape(5, 4, 5) * 3 - 50
    return voxels


def check(volume: Volume, voxels: np.ndarray) -> None:
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)


@pytest.mark.parametrize("rle", [False, True])
def test_reads_a_series(tmp_path: Path, rle: bool) -> None:
    check(read_dicom_series(write_dicom_series(tmp_path, distinct_voxels(), rle=rle)), distinct_voxels())


def test_order_comes_from_positions_not_from_names_or_numbers(tmp_path: Path) -> None:
    voxels = distinct_voxels()
    for name, number in enumerate([3, 0, 4, 1, 2]):
        stored = (voxels[number].astype(int) + 1024).astype(np.uint16)
        position = (-40, -50, 60 - 3 * number)
        write_dicom_slice(tmp_path / f"{name}.dcm", stored, position, InstanceNumber=100 - name)
    check(read_dicom_series(tmp_path), voxels)


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels(tmp_path: Path, bits: int, rle: bool) -> None:
    voxels = distinct_voxels()
    for number, plane in enumerate(voxels):
        tags = {"BitsStored": bits, "PixelRepresentation": 1, "RescaleIntercept": 0, "rle": rle}
        write_dicom_slice(tmp_path / f"{number}.dcm", plane, (-40, -50, 60 - 3 * number), **tags)
    check(read_dicom_series(tmp_path), voxels)


def test_twelve_bit_signed_pixels_in_an_unsigned_container(tmp_path: Path) -> None:
    # Some of RATIC's scanners leave the four bits above BitsStored at zero, so -1 is stored as 0x0fff.
    voxels = distinct_voxels()
    for number, plane in enumerate(voxels):
        stored = (plane.astype(np.int32) & 0x0FFF).astype(np.uint16)
        tags = {"BitsStored": 12, "PixelRepresentation": 1, "RescaleIntercept": 0}
        write_dicom_slice(tmp_path / f"{number}.dcm", stored, (-40, -50, 60 - 3 * number), **tags)
    check(read_dicom_series(tmp_path), voxels)


def test_rescaling_is_per_slice(tmp_path: Path) -> None:
    voxels = distinct_voxels() * 2
    for number, plane in enumerate(voxels):
        intercept = -2000 - 10 * number
        stored = ((plane.astype(int) - intercept) // 2).astype(np.uint16)
        tags = {"RescaleSlope": 2, "RescaleIntercept": intercept}
        write_dicom_slice(tmp_path / f"{number}.dcm", stored, (-40, -50, 60 - 3 * number), **tags)
    check(read_dicom_series(tmp_path), voxels)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("inverted", [False, True])
def test_monochrome1(tmp_path: Path, signed: bool, inverted: bool) -> None:
    voxels = body_with_air()
    intercept = 0 if signed else -1024
    for number, plane in enumerate(voxels):
        stored = plane.astype(int) - intercept
        if inverted:
            stored = -1 - stored if signed else 4095 - stored
        write_dicom_slice(
            tmp_path / f"{number}.dcm",
            stored.astype(np.int16 if signed else np.uint16),
            (-40, -50, 60 - 3 * number),
            PhotometricInterpretation="MONOCHROME1",
            BitsStored=12,
            PixelRepresentation=int(signed),
            RescaleIntercept=intercept,
        )
    check(read_dicom_series(tmp_path), voxels)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ((1, 0, 0), (0, 1, 0)),  # axial, supine
        ((-1, 0, 0), (0, -1, 0)),  # axial, prone
        ((-1, 0, 0), (0, 1, 0)),  # axial, feet first
        ((1, 0, 0), (0, 0, -1)),  # coronal
        ((0, 1, 0), (0, 0, -1)),  # sagittal
        ((0.96, 0.28, 0), (-0.28, 0.96, 0)),  # turned in plane
    ],
)
@pytest.mark.parametrize("distance", [4.0, -4.0])
def test_every_pixel_lies_where_its_tags_put_it(
    tmp_path: Path, row: Direction, column: Direction, distance: float
) -> None:
    voxels = distinct_voxels()
    along_row, along_column = np.array(row, float), np.array(column, float)
    normal = np.cross(along_row, along_column)
    first = np.array([12.0, -34, 56])
    for number, plane in enumerate(voxels):
        write_dicom_slice(
            tmp_path / f"{number}.dcm",
            (plane.astype(int) + 1024).astype(np.uint16),
            (first + number * distance * normal).tolist(),
            ImageOrientationPatient=[float(x) for x in (*row, *column)],
        )
    volume = read_dicom_series(tmp_path)
    for index in [(0, 0, 0), (1, 2, 3), (4, 0, 5)]:
        slice_number, r, c = index
        left, back, up = first + slice_number * distance * normal + r * 2.0 * along_column + c * 1.5 * along_row
        (found,) = np.argwhere(volume.voxels == voxels[index])
        np.testing.assert_allclose((volume.affine @ [*found, 1])[:3], (-left, -back, up), atol=1e-9)
    assert (np.diag(volume.affine[[2, 1, 0], :3]) < 0).all()


def test_a_tilted_gantry_shears_the_affine(tmp_path: Path) -> None:
    # Slices move along the table (z) while their planes are tilted by 15 degrees.
    angle = np.deg2rad(15)
    column = np.array([0, np.cos(angle), np.sin(angle)])
    voxels = distinct_voxels()
    for number, plane in enumerate(voxels):
        write_dicom_slice(
            tmp_path / f"{number}.dcm",
            (plane.astype(int) + 1024).astype(np.uint16),
            (0, 0, -5.0 * number),
            ImageOrientationPatient=[1, 0, 0, *(float(x) for x in column)],
        )
    volume = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine[:3, 0], (0, 0, -5), atol=1e-9)
    np.testing.assert_allclose(volume.affine[:3, 1], (0, -2 * np.cos(angle), 2 * np.sin(angle)), atol=1e-9)


def test_what_is_not_a_ct_slice_is_passed_over(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, distinct_voxels())
    (tmp_path / "README.txt").write_text("not a slice")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 64)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    stored = np.zeros((6, 7), np.uint16)
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "9.9"}
    write_dicom_slice(tmp_path / "scout.dcm", stored, (0, 0, 0), **scout)
    write_dicom_slice(tmp_path / "dose.dcm", stored, (0, 0, 0), Modality="SR", SeriesInstanceUID="9.8")
    check(read_dicom_series(tmp_path), distinct_voxels())


def test_values_beyond_int16_saturate(tmp_path: Path) -> None:
    for number in range(3):
        stored = np.full((4, 4), 65535, np.uint16)
        write_dicom_slice(tmp_path / f"{number}.dcm", stored, (0, 0, number), RescaleIntercept=0)
    assert (read_dicom_series(tmp_path).voxels == 32767).all()


def test_small_jitter_of_positions_is_tolerated(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, distinct_voxels())
    path = tmp_path / "2.dcm"
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient[2] += 0.02
    dataset.save_as(path)
    volume = read_dicom_series(tmp_path)
    np.testing.assert_allclose(volume.grid.spacing, (3, 2, 1.5), atol=1e-9)
