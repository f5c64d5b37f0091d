"""A scan or an organ mask in memory: voxels and where they lie in the patient.

Every reader yields the same orientation, that of a radiologist's screen: axis 0 runs from superior to inferior,
axis 1 from anterior to posterior, axis 2 from the patient's right to left (orientation code IPL). The affine maps
voxel indices (d, h, w) to NIfTI's world millimetres (x grows to the patient's right, y to anterior, z to superior:
RAS+), so its first column points down, its second backwards, its third to the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatobench.tasks import Size, Spacing

AIR_HU = -1000
"""What lies outside a scan's field of view."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: a size and an affine, without the voxels."""

    size: Size
    affine: np.ndarray
    """float64 [4, 4]: voxel index (d, h, w, 1) to RAS+ millimetres."""

    @property
    def spacing(self) -> Spacing:
        """Millimetres between voxel centres per axis."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)


@dataclass(frozen=True)
class HeaderOverride:
    """What a scan's own header does not say: CT-RATE's original files carry it in a CSV instead."""

    slope: float
    intercept: float
    """HU = slope * stored + intercept."""
    affine: np.ndarray
    """float64 [4, 4]: the file's own voxel axes (i, j, k) to RAS+ millimetres."""


@dataclass(frozen=True)
class Volume:
    """A CT scan."""

    voxels: np.ndarray
    """int16 [D, H, W], Hounsfield units."""
    affine: np.ndarray
    """float64 [4, 4]: voxel (d, h, w) to RAS+ millimetres."""
    notes: tuple[str, ...] = ()
    """What was mended or passed over when it was read, a sentence each."""

    @property
    def grid(self) -> Grid:
        d, h, w = self.voxels.shape
        return Grid((d, h, w), self.affine)


@dataclass(frozen=True)
class Mask:
    """An organ mask with the labels of whatever made it."""

    labels: np.ndarray
    """Unsigned integers [D, H, W]."""
    affine: np.ndarray
    """float64 [4, 4]: voxel (d, h, w) to RAS+ millimetres."""
    names: dict[int, str] | None = None
    """Label to structure name where the file carries them (TotalSegmentator's header extension)."""

    @property
    def grid(self) -> Grid:
        d, h, w = self.labels.shape
        return Grid((d, h, w), self.affine)
