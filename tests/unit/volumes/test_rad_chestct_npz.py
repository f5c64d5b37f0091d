from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scan_files import distinct_voxels

from anatobench.volumes.read import read_volume


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("variant", ["plain", "fortran", "big-endian"])
def test_reads_the_array_as_it_is(tmp_path: Path, save: Callable[..., None], variant: str) -> None:
    voxels = distinct_voxels()
    stored = {"plain": voxels, "fortran": np.asfortranarray(voxels), "big-endian": voxels.astype(">i2")}[variant]
    save(tmp_path / "trn00001.npz", ct=stored)
    volume = read_volume(tmp_path / "trn00001.npz")
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(volume.voxels, voxels)


def test_axes_run_down_backwards_and_left(tmp_path: Path) -> None:
    np.savez(tmp_path / "trn00001.npz", ct=distinct_voxels())
    affine = read_volume(tmp_path / "trn00001.npz").affine
    origin = affine @ [0, 0, 0, 1]
    np.testing.assert_allclose((affine @ [1, 0, 0, 1] - origin)[:3], (0, 0, -0.8))
    np.testing.assert_allclose((affine @ [0, 1, 0, 1] - origin)[:3], (0, -0.8, 0))
    np.testing.assert_allclose((affine @ [0, 0, 1, 1] - origin)[:3], (-0.8, 0, 0))
