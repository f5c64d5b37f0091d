"""The readers and the resampling on real CT (../shared/data: TotalSegmentator's reference files)."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from organ_masks import organ_indices
from scan_files import NO_SHARED_DATA, SHARED_DATA

from anatobench.errors import CaseError
from anatobench.tasks import get_task
from anatobench.volumes.coverage import check_mask_coverage
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V1
from anatobench.volumes.organs import organ_table
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.resample import padded_or_cropped_grid, resample_mask, resample_volume, resampled_grid
from anatobench.volumes.volume import Mask

pytestmark = pytest.mark.skipif(not SHARED_DATA.exists(), reason=NO_SHARED_DATA)

RATIC = get_task("ratic")
SPACING = (3.0, 1.5, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan", "mask", "organs"),
    [
        ("ct_small.nii.gz", "ct_small_totalsegmentator.nii.gz", ("liver", "spleen", "kidney_left", "kidney_right")),
        ("dicom", "dicom_totalsegmentator.nii.gz", ("liver", "spleen")),
    ],
)
def test_organs_have_their_hounsfield_values(scan: str, mask: str, organs: tuple[str, ...]) -> None:
    volume, labels = read_volume(SHARED_DATA / scan), read_mask(SHARED_DATA / mask)
    check_mask_coverage(labels.grid, volume.grid)
    grid = padded_or_cropped_grid(resampled_grid(volume.grid, SPACING), RATIC.geometry("full").padded_size)
    voxels = resample_volume(volume, grid)
    indices = organ_table(labels, RATIC, "auto")[resample_mask(labels.labels, labels.affine, grid)]
    for organ in organs:
        inside = voxels[indices == RATIC.organs.index(organ) + 1]
        assert 0 < np.median(inside) < 150, organ
        assert np.std(inside) < 80, organ  # a mask that is off its organ takes in fat, air and bone
    liver, spleen = (np.argwhere(indices == index).mean(0) for index in (1, 2))
    assert liver[2] < spleen[2]  # the liver is on the right, which comes first


@pytest.mark.slow
def test_a_dicom_series_equals_simpleitks() -> None:
    sitk = pytest.importorskip("SimpleITK")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(SHARED_DATA / "dicom"))
    image = sitk.ReadImage(names)
    volume = read_volume(SHARED_DATA / "dicom")
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayFromImage(image)[::-1])
    corner = np.array(image.TransformIndexToPhysicalPoint((0, 0, image.GetSize()[2] - 1))) * (-1, -1, 1)
    np.testing.assert_allclose(volume.affine[:3, 3], corner, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["ct.nii.gz", "dicom"])
@pytest.mark.parametrize("spacing", [SPACING, (12.0, 6.0, 6.0)])
def test_resampling_equals_simpleitks(scan: str, spacing: tuple[float, float, float]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume = read_volume(SHARED_DATA / scan)
    grid = resampled_grid(volume.grid, spacing)
    ours = resample_volume(volume, grid)

    path = SHARED_DATA / scan
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
    to_lps = np.diag([-1.0, -1, 1, 1]) @ grid.affine[:, [2, 1, 0, 3]]
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in grid.size[::-1]])
    resampler.SetOutputSpacing(spacing[::-1])
    resampler.SetOutputOrigin(to_lps[:3, 3])
    resampler.SetOutputDirection((to_lps[:3, :3] / np.array(spacing[::-1])).reshape(-1))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(-1000)
    theirs = sitk.GetArrayFromImage(resampler.Execute(sitk.ReadImage(names))).astype(int)

    body = theirs > -500
    assert body.mean() > 0.2
    difference = np.abs(ours - theirs)[body]
    assert difference.mean() < 1
    assert difference.max() <= 1  # rounding against truncation


def test_a_mask_of_a_part_of_the_scan_is_refused() -> None:
    volume, mask = read_volume(SHARED_DATA / "ct.nii.gz"), read_mask(SHARED_DATA / "ct_small_totalsegmentator.nii.gz")
    with pytest.raises(CaseError, match="covers 26") as caught:
        check_mask_coverage(mask.grid, volume.grid)
    assert caught.value.reason == "mask-off-grid"


def renumbered_to_v1(mask: Mask) -> Mask:
    assert mask.names is not None
    labels = {name: label for label, name in TOTALSEGMENTATOR_V1.items()}
    table = np.zeros(256, np.uint8)
    for label, name in mask.names.items():
        table[label] = labels.get({"heart": "heart_myocardium"}.get(name, name), 0)
    return Mask(table[mask.labels], mask.affine)


@pytest.mark.parametrize("name", ["ct_small_totalsegmentator.nii.gz", "dicom_totalsegmentator.nii.gz"])
def test_v1_labels_are_not_read_as_v2(name: str) -> None:
    mask = read_mask(SHARED_DATA / name)
    version_1 = renumbered_to_v1(mask)
    with pytest.raises(CaseError, match="totalsegmentator_v1") as caught:
        organ_indices(version_1, RATIC, "totalsegmentator_v2")
    assert caught.value.reason == "wrong-mask-labels"
    np.testing.assert_array_equal(organ_indices(version_1, RATIC, "auto"), organ_indices(mask, RATIC, "auto"))
    nameless = Mask(mask.labels, mask.affine)
    np.testing.assert_array_equal(organ_indices(nameless, RATIC, "auto"), organ_indices(mask, RATIC, "auto"))


def test_a_scan_cut_anywhere_is_truncated(tmp_path: Path) -> None:
    content = (SHARED_DATA / "ct_small.nii.gz").read_bytes()
    assert len(gzip.decompress(content)) > len(content)
    path = tmp_path / "scan.nii.gz"
    for keep in (1, 20, 300, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(CaseError) as caught:
            read_volume(path)
        assert caught.value.reason in ("truncated", "not-nifti"), keep
