"""What a CT scan can be: beyond these limits a file is broken or is no CT scan, and no memory is taken for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anatobench.errors import CaseError

MAX_VOXELS = 2**30
"""2 GiB of int16: 1024 slices of 1024 x 1024."""
SPACING_RANGE = (0.05, 50.0)
"""Millimetres between voxel centres."""
MIN_AXIS_INDEPENDENCE = 0.3
"""Volume spanned by the three unit axis vectors; a gantry tilt of 30 degrees leaves 0.87 of it."""


def check_size(path: Path, size: Sequence[int]) -> None:
    """Raise `CaseError` unless `size` (voxels per axis, any order) can be a scan that fits into memory."""
    shown = " x ".join(str(n) for n in size)
    if len(size) != 3 or min(size) < 2:
        raise CaseError("bad-dimensions", f"{path}: {shown} voxels is not a 3-D scan: give one volume per file")
    voxels = int(size[0]) * int(size[1]) * int(size[2])
    if voxels > MAX_VOXELS:
        raise CaseError("too-large", f"{path}: claims {shown} voxels, over the limit of {MAX_VOXELS}: is it damaged?")


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Raise `CaseError` unless a float [4, 4] voxel-to-millimetre affine can be that of a scan."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise CaseError("bad-affine", f"{path}: the header's voxel-to-patient affine is not a finite 4 x 4 affine")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    check_spacing(path, spacing)
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < MIN_AXIS_INDEPENDENCE:
        raise CaseError("bad-affine", f"{path}: the header's axes are nearly parallel: repair its affine")


def plausible_spacing(spacing: Sequence[float] | np.ndarray) -> bool:
    """Return whether each of [axes] is a spacing in millimetres that a scanner may have; false for NaN."""
    return all(SPACING_RANGE[0] <= float(s) <= SPACING_RANGE[1] for s in spacing)


def check_spacing(path: Path, spacing: Sequence[float] | np.ndarray) -> None:
    """Raise `CaseError` unless each spacing of [axes] is a plausible number of millimetres."""
    low, high = SPACING_RANGE
    if not plausible_spacing(spacing):
        shown = " x ".join(f"{float(s):g}" for s in spacing)
        raise CaseError("bad-spacing", f"{path}: a voxel spacing of {shown} mm is outside {low:g} to {high:g} mm")
