"""Whether an organ mask was made for this scan: it must cover the scan's field of view."""

from __future__ import annotations

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.volume import Grid

MIN_COVERAGE = 0.95
SAMPLES_PER_AXIS = 64


def check_mask_coverage(mask_grid: Grid, volume_grid: Grid) -> float:
    """The share of the scan's field of view that the mask's covers; `CaseError` below `MIN_COVERAGE`.

    Voxels without a mask would be trained as background, so half a mask is worse than none.
    """
    share = coverage(mask_grid, volume_grid)
    if share < MIN_COVERAGE:
        raise CaseError(
            "mask-off-grid",
            f"the mask covers {share:.1%} of the scan's field of view, not {MIN_COVERAGE:.0%}: "
            "it belongs to another scan, or one of the two headers is wrong",
        )
    return share


def coverage(mask_grid: Grid, volume_grid: Grid) -> float:
    """Share of points of the scan's field of view, evenly spread, that lie in the mask's. Any two affines."""
    mapping = np.linalg.solve(mask_grid.affine, volume_grid.affine)
    inside: np.ndarray = np.ones((SAMPLES_PER_AXIS,) * 3, dtype=bool)
    d, h, w = ((np.arange(SAMPLES_PER_AXIS) + 0.5) / SAMPLES_PER_AXIS * n - 0.5 for n in volume_grid.size)
    for row, voxels in zip(mapping[:3], mask_grid.size, strict=True):
        position = row[0] * d[:, None, None] + row[1] * h[:, None] + row[2] * w + row[3]
        inside &= (position >= -0.5) & (position <= voxels - 0.5)
    return float(inside.mean())
