import numpy as np
import pytest
from scan_files import AFFINE, distinct_voxels, turned
from scipy.ndimage import map_coordinates

from anatobench.volumes.orientation import to_canonical
from anatobench.volumes.resample import padded_or_cropped_grid, resample_mask, resample_volume, resampled_grid
from anatobench.volumes.volume import AIR_HU, Grid, Volume


def smooth_volume(size: tuple[int, int, int] = (9, 14, 17)) -> Volume:
    d, h, w = np.indices(size)
    voxels = 300 * np.sin(d / 2) + 200 * np.cos(h / 3) + 40 * w + np.random.default_rng(0).normal(0, 50, size)
    return Volume(voxels.astype(np.int16), AFFINE)


def oblique(affine: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    tilt = np.eye(4)
    tilt[:3, :3] = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    changed: np.ndarray = turn @ tilt @ affine
    return changed


def test_the_new_grid_has_the_spacing_and_the_centre() -> None:
    grid = Grid(
        (100, 200, 301), oblique(np.array([[0.0, 0, -0.7, 9], [0, -0.8, 0, 8], [-2.5, 0, 0, 7], [0, 0, 0, 1]]), 9)
    )
    new = resampled_grid(grid, (3.0, 1.5, 1.5))
    assert new.size == (83, 107, 140)  # 250/3, 160/1.5, 210.7/1.5
    np.testing.assert_allclose(new.spacing, (3.0, 1.5, 1.5))
    for one in (grid, new):
        centre = one.affine @ [*((np.array(one.size) - 1) / 2), 1]
        np.testing.assert_allclose(centre, grid.affine @ [49.5, 99.5, 150, 1])


@pytest.mark.parametrize(
    ("old", "new", "first"), [(10, 10, 0), (10, 14, -2), (10, 13, -2), (10, 6, 2), (10, 7, 1), (11, 6, 2)]
)
def test_padding_and_cropping_shift_by_whole_voxels(old: int, new: int, first: int) -> None:
    grid = padded_or_cropped_grid(Grid((old, old, old), AFFINE), (new, new, new))
    np.testing.assert_allclose(grid.affine @ [0, 0, 0, 1], AFFINE @ [first, first, first, 1])
    np.testing.assert_allclose(grid.affine[:3, :3], AFFINE[:3, :3])


@pytest.mark.parametrize("spacing", [(3.0, 1.5, 1.5), (1.0, 0.7, 4.0), (12.0, 6.0, 6.0), (3.0, 2.0, 1.5)])
@pytest.mark.parametrize("flip", ["IPL", "SAR", "SPL", "IAR"])
def test_trilinear_equals_scipy(spacing: tuple[float, float, float], flip: str) -> None:
    volume = smooth_volume()
    # the same scan with voxels in another order in memory
    stored, affine = turned(volume.voxels, volume.affine, flip)
    volume = Volume(*to_canonical(np.ascontiguousarray(stored), affine))
    grid = resampled_grid(volume.grid, spacing)
    positions = np.linalg.solve(volume.affine, grid.affine) @ np.vstack(
        [np.indices(grid.size).reshape(3, -1), np.ones(np.prod(grid.size))]
    )
    expected = map_coordinates(volume.voxels.astype(float), positions[:3], order=1, mode="nearest")
    np.testing.assert_allclose(resample_volume(volume, grid), expected.reshape(grid.size), atol=0.51)


@pytest.mark.parametrize("axes", ["RAS", "SAL", "PIR"])
def test_memory_layout_does_not_matter(axes: str) -> None:
    volume = smooth_volume()
    grid = resampled_grid(volume.grid, (3.0, 1.5, 1.5))
    stored, affine = turned(volume.voxels, volume.affine, axes)
    other = Volume(*to_canonical(np.ascontiguousarray(stored), affine))
    np.testing.assert_array_equal(resample_volume(other, grid), resample_volume(volume, grid))


def test_the_same_grid_gives_the_same_voxels() -> None:
    volume = Volume(distinct_voxels(), oblique(AFFINE, 7))
    np.testing.assert_array_equal(resample_volume(volume, volume.grid), volume.voxels)
    labels = distinct_voxels().astype(np.uint16)
    np.testing.assert_array_equal(resample_mask(labels, volume.affine, volume.grid), labels)


@pytest.mark.parametrize("size", [(20, 30, 40), (4, 5, 6), (20, 5, 40)])
def test_going_straight_to_the_final_grid_equals_padding_and_cropping_after(size: tuple[int, int, int]) -> None:
    volume = smooth_volume()
    middle = resampled_grid(volume.grid, (3.0, 1.5, 1.5))
    whole = resample_volume(volume, middle)
    final = resample_volume(volume, padded_or_cropped_grid(middle, size))
    expected = np.full(size, AIR_HU, np.int16)
    starts = [(old - new) // 2 for old, new in zip(middle.size, size, strict=True)]
    source = tuple(slice(max(0, s), max(0, s) + min(o, n)) for s, o, n in zip(starts, middle.size, size, strict=True))
    target = tuple(slice(max(0, -s), max(0, -s) + min(o, n)) for s, o, n in zip(starts, middle.size, size, strict=True))
    expected[target] = whole[source]
    np.testing.assert_array_equal(final, expected)


def test_outside_the_field_of_view_is_air_and_background() -> None:
    grid = Grid((9, 14, 17), AFFINE)
    far = Grid(grid.size, AFFINE + np.array([[0, 0, 0, 5000.0]] * 3 + [[0, 0, 0, 0]]))
    assert (resample_volume(smooth_volume(), far) == AIR_HU).all()
    assert (resample_mask(np.ones(grid.size, np.uint8), AFFINE, far) == 0).all()


def test_a_marker_stays_at_its_millimetre_position() -> None:
    volume = Volume(np.full((30, 40, 50), -1000, np.int16), oblique(AFFINE, 12))
    volume.voxels[10:13, 19:24, 30:37] = 1000  # a symmetric block about (11, 21, 33)
    expected = volume.affine @ [11, 21, 33, 1]
    grid = padded_or_cropped_grid(resampled_grid(volume.grid, (3.0, 1.5, 1.5)), (40, 60, 45))
    weight = resample_volume(volume, grid).astype(float) + 1000
    centre = [(np.indices(grid.size)[axis] * weight).sum() / weight.sum() for axis in range(3)]
    np.testing.assert_allclose((grid.affine @ [*centre, 1])[:3], expected[:3], atol=0.05)
    mask = resample_mask((volume.voxels > 0).astype(np.uint8), volume.affine, grid)
    np.testing.assert_allclose((grid.affine @ [*np.argwhere(mask).mean(0), 1])[:3], expected[:3], atol=0.8)


def test_extreme_neighbours_do_not_overflow() -> None:
    voxels = np.full((4, 4, 4), -32768, np.int16)
    voxels[:, :, 2:] = 32767
    volume = Volume(voxels, AFFINE)
    result = resample_volume(volume, resampled_grid(volume.grid, (3.0, 2.0, 0.5)))
    assert (np.diff(result[0, 0].astype(int)) >= 0).all()


def test_a_scan_is_not_resampled_onto_other_axes() -> None:
    volume = smooth_volume()
    with pytest.raises(ValueError, match="own axes"):
        resample_volume(volume, Grid(volume.grid.size, oblique(AFFINE, 20)))


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("axes", ["IPL", "RAS"])
def test_masks_are_placed_by_their_affine(degrees: float, axes: str) -> None:
    """Against the definition: the label of the mask voxel nearest to each point of the grid."""
    labels = (distinct_voxels((8, 9, 10)) + 1001).astype(np.uint16)
    stored, affine = turned(labels, oblique(AFFINE, degrees), axes)
    mask, mask_affine = to_canonical(np.ascontiguousarray(stored), affine)
    grid = Grid((7, 12, 13), AFFINE @ np.diag([1.3, 0.8, 0.9, 1]) + np.array([[0, 0, 0, 1.1]] * 3 + [[0, 0, 0, 0]]))
    result = resample_mask(mask, mask_affine, grid)
    assert result.dtype == np.uint16
    for index in np.ndindex(*grid.size):
        position = np.linalg.solve(mask_affine, grid.affine @ [*index, 1])[:3]
        nearest = np.floor(position + 0.5).astype(int)
        inside = (nearest >= 0).all() and (nearest < mask.shape).all()
        assert result[index] == (mask[tuple(nearest)] if inside else 0)
    assert 0 < (result == 0).sum() < result.size
