"""Any voxel orientation -> IPL (see volume.py), by flipping and reordering axes, never by resampling."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

CANONICAL = ("I", "P", "L")
SHEAR_TOLERANCE = 1e-3
"""Cosine between two axes, about 0.06 degrees; a gantry tilt begins well above it, rounded headers lie below."""


def is_sheared(affine: np.ndarray) -> bool:
    """Return whether two axes of an affine, [4, 4] to millimetres, are not perpendicular, as those of a scan with a
    tilted gantry."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def to_canonical(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same voxels with axes in the order and direction closest to inferior, posterior, left.

    `voxels` is [a, b, c] and `affine` float64 [4, 4] maps (a, b, c) to RAS+ millimetres; it may be oblique, sheared or
    left-handed. Returns a view [D, H, W] of the voxels and its affine: every voxel keeps its millimetre position.
    """
    change = ornt_transform(io_orientation(affine), axcodes2ornt(CANONICAL))
    return apply_orientation(voxels, change), affine @ inv_ornt_aff(change, voxels.shape)


def to_axes_of(voxels: np.ndarray, affine: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same voxels with axes in the order and direction of another affine's: the inverse of `to_canonical`,
    given the affine that it was given.

    `voxels` is [D, H, W], both affines [4, 4] map voxels to RAS+ millimetres. Returns a view [a, b, c] and its affine.
    """
    change = ornt_transform(io_orientation(affine), io_orientation(wanted))
    return apply_orientation(voxels, change), affine @ inv_ornt_aff(change, voxels.shape)
