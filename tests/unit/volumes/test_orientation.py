import itertools

import numpy as np
import pytest
from scan_files import AFFINE, distinct_voxels, turned

from anatobench.volumes.orientation import to_canonical

ALL_ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("LR", "AP", "IS")) for letters in itertools.product(*order)
]


@pytest.mark.parametrize("axes", ALL_ORIENTATIONS)
def test_every_orientation_becomes_the_same_array(axes: str) -> None:
    voxels = distinct_voxels()
    canonical, affine = to_canonical(*turned(voxels, AFFINE, axes))
    np.testing.assert_array_equal(canonical, voxels)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-9)


def test_axes_point_down_backwards_and_to_the_left() -> None:
    # RAS: the largest i, j, k is right, front, top; so it must come first on every canonical axis.
    voxels = np.zeros((3, 4, 5), np.int16)
    voxels[2, 3, 4] = 1
    canonical, _ = to_canonical(voxels, np.diag([1.0, 1, 1, 1]))
    assert canonical.shape == (5, 4, 3)
    assert canonical[0, 0, 0] == 1
    assert canonical.sum() == 1


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL", "PIR"])
def test_an_oblique_scan_keeps_every_voxel_where_it_was(axes: str) -> None:
    angle = np.deg2rad(20)
    tilt = np.eye(4)
    tilt[:3, :3] = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    file_voxels, file_affine = turned(distinct_voxels(), tilt @ AFFINE, axes)
    canonical, affine = to_canonical(file_voxels, file_affine)
    for index in [(0, 0, 0), (1, 2, 3), (3, 1, 2)]:
        found = np.argwhere(canonical == file_voxels[index])[0]
        np.testing.assert_allclose(affine @ [*found, 1], file_affine @ [*index, 1], atol=1e-9)
    assert (np.diag(affine[[2, 1, 0], :3]) < 0).all()  # down, backwards, left


def test_voxels_are_not_copied() -> None:
    voxels = distinct_voxels()
    canonical, _ = to_canonical(*turned(voxels, AFFINE, "RAS"))
    assert np.shares_memory(canonical, voxels)
