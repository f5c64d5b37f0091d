import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scan_files import AFFINE, distinct_voxels, turned, write_nifti_file

from anatobench.volumes.nifti import read_nifti_mask, read_nifti_volume, write_nifti
from anatobench.volumes.read import read_volume
from anatobench.volumes.volume import HeaderOverride


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR"])
def test_reads_what_nibabel_wrote(tmp_path: Path, name: str, axes: str) -> None:
    voxels = distinct_voxels()
    volume = read_nifti_volume(write_nifti_file(tmp_path / name, *turned(voxels, AFFINE, axes)))
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(volume.grid.spacing, (3, 2, 1.5), atol=1e-5)


def test_a_marker_lies_where_the_header_puts_it(tmp_path: Path) -> None:
    array = np.full((20, 30, 10), -1000, np.int16)
    array[4, 25, 7] = 500
    affine = np.array([[-0.7, 0, 0, 100.0], [0, 0.7, 0, -50], [0, 0, 2.5, 300], [0, 0, 0, 1]])
    volume = read_nifti_volume(write_nifti_file(tmp_path / "scan.nii.gz", array, affine))
    (index,) = np.argwhere(volume.voxels == 500)
    np.testing.assert_allclose(
        (volume.affine @ [*index, 1])[:3], [100 - 0.7 * 4, -50 + 0.7 * 25, 300 + 2.5 * 7], atol=1e-4
    )


@pytest.mark.parametrize("kind", ["nifti2", "big-endian"])
def test_other_header_forms(tmp_path: Path, kind: str) -> None:
    voxels = distinct_voxels()
    array, affine = turned(voxels, AFFINE, "RAS")
    if kind == "nifti2":
        image: nibabel.Nifti1Image = nibabel.Nifti2Image(array, affine)
    else:
        image = nibabel.Nifti1Image(array.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    if kind == "big-endian":
        assert gzip.decompress((tmp_path / "scan.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "big")
    volume = read_nifti_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype.isnative


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_voxel_types_and_rescaling(tmp_path: Path, dtype: str) -> None:
    stored = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    path = write_nifti_file(tmp_path / "scan.nii", stored, np.eye(4), scl_slope=2.5, scl_inter=-1024)
    expected = np.rint(stored.astype(float) * 2.5 - 1024).transpose(2, 1, 0)[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(read_nifti_volume(path).voxels, expected)


def test_integer_shift_in_place_equals_the_general_way(tmp_path: Path) -> None:
    stored = np.arange(0, 4 * 5 * 6 * 30, 30, dtype=np.int16).reshape(4, 5, 6)
    path = write_nifti_file(tmp_path / "scan.nii", stored, np.eye(4), scl_slope=1, scl_inter=-1024)
    np.testing.assert_array_equal(read_nifti_volume(path).voxels, (stored - 1024).transpose(2, 1, 0)[::-1, ::-1, ::-1])


@pytest.mark.parametrize(("dtype", "slope", "intercept"), [("i2", 1, -1024), ("i4", 1, 0), ("f4", 10, 0)])
def test_values_beyond_int16_saturate(tmp_path: Path, dtype: str, slope: float, intercept: float) -> None:
    stored = np.zeros((3, 3, 3), dtype)
    stored[0, 0, 0], stored[1, 1, 1] = -32768, 32767
    if dtype != "i2":
        stored[0, 0, 0], stored[1, 1, 1] = -5_000_000, 5_000_000
    path = write_nifti_file(tmp_path / "scan.nii", stored, np.eye(4), scl_slope=slope, scl_inter=intercept)
    voxels = read_nifti_volume(path).voxels
    assert voxels.min() == -32768  # not wrapped round to +31744
    assert voxels.max() == (32767 - 1024 if dtype == "i2" else 32767)


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    voxels = distinct_voxels()
    array, affine = turned(voxels, AFFINE, "LPS")
    volume = read_nifti_volume(write_nifti_file(tmp_path / "scan.nii", array[..., None, None], affine))
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_qform_places_a_scan_without_sform(tmp_path: Path) -> None:
    voxels = distinct_voxels()
    array, affine = turned(voxels, AFFINE, "LAS")
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_nifti_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


def test_header_override_replaces_rescaling_and_affine(tmp_path: Path) -> None:
    # CT-RATE's originals: raw values in floats, an identity header that says nothing true.
    voxels = distinct_voxels()
    array, affine = turned(voxels, AFFINE, "LPS")
    raw = (array.astype(np.float32) + 8192) / 2
    path = write_nifti_file(tmp_path / "scan.nii.gz", raw, None, pixdim=[1, 0, 0, 0, 0, 0, 0, 0], scl_slope=7)
    volume = read_volume(path, HeaderOverride(2.0, -8192.0, affine))
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    voxels = distinct_voxels()
    packed = write_nifti_file(tmp_path / "scan.nii.gz", *turned(voxels, AFFINE, "RAS"))
    named_plain = packed.rename(tmp_path / "packed.nii")
    np.testing.assert_array_equal(read_volume(named_plain).voxels, voxels)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f8"])
def test_masks_become_unsigned_labels(tmp_path: Path, dtype: str) -> None:
    labels = np.random.default_rng(0).integers(0, 118, (4, 5, 6)).astype(dtype)
    mask = read_nifti_mask(write_nifti_file(tmp_path / "mask.nii.gz", *turned(labels, AFFINE, "RAS")))
    assert mask.labels.dtype.kind == "u"
    np.testing.assert_array_equal(mask.labels, labels)
    assert mask.names is None


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz"])
def test_written_masks_come_back_with_their_names(tmp_path: Path, name: str) -> None:
    labels = np.random.default_rng(0).integers(0, 118, (4, 5, 6)).astype(np.uint8)
    names = {5: "liver", 1: "spleen & <more>"}
    write_nifti(tmp_path / name, labels, AFFINE, names)
    mask = read_nifti_mask(tmp_path / name)
    np.testing.assert_array_equal(mask.labels, labels)
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    assert mask.names == names
    assert [path.name for path in tmp_path.iterdir()] == [name]
    # another reader agrees on every voxel's place
    image = nibabel.Nifti1Image.from_filename(tmp_path / name)
    np.testing.assert_allclose(image.affine[:, [2, 1, 0, 3]], AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), labels)


def test_the_same_array_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", distinct_voxels(), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
