"""SimpleITK: ReadImage, then Resample onto the same grid as AnatoBench."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from anatobench.tasks import Spacing
from anatobench.volumes.orientation import to_canonical
from anatobench.volumes.resample import resampled_grid
from anatobench.volumes.volume import AIR_HU, Grid

NAME = "simpleitk"
VERSION = sitk.Version.VersionString()
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def prepare(scan: Path, mask: Path | None, spacing: Spacing) -> tuple[np.ndarray, np.ndarray | None, Grid]:
    """Scan int16 [D, H, W] in HU and mask (or None) in IPL orientation at `spacing`, and their grid."""
    image = sitk.ReadImage(str(scan))
    grid = resampled_grid(_canonical_grid(image), spacing)
    voxels = _resample(image, grid, sitk.sitkLinear, AIR_HU)
    labels = None if mask is None else _resample(sitk.ReadImage(str(mask)), grid, sitk.sitkNearestNeighbor, 0)
    return voxels, labels, grid


def _canonical_grid(image: sitk.Image) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    empty = np.broadcast_to(np.int16(0), image.GetSize())
    turned, turned_affine = to_canonical(empty, LPS_TO_RAS @ affine)
    d, h, w = turned.shape
    return Grid((d, h, w), turned_affine)


def _resample(image: sitk.Image, grid: Grid, interpolator: int, outside: int) -> np.ndarray:
    affine = LPS_TO_RAS @ grid.affine[:, [2, 1, 0, 3]]
    spacing = grid.spacing[::-1]
    direction = (affine[:3, :3] / spacing).reshape(-1)
    size = [int(n) for n in grid.size[::-1]]
    resampled = sitk.Resample(
        image, size, sitk.Transform(), interpolator, affine[:3, 3], spacing, direction, outside, image.GetPixelID()
    )
    return sitk.GetArrayFromImage(resampled)
