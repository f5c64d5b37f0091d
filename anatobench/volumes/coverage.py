"""Whether an organ mask was made for this scan: it must cover the scan's field of view, and its organs lie where the
scan shows such tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.volume import Grid

MIN_COVERAGE = 0.95
SAMPLES_PER_AXIS = 64
SOLID = ("liver", "spleen", "kidney_left", "kidney_right")
LOWEST_SOLID_HU, MAX_LOW_SHARE = -60, 0.15
"""Solid organs are denser than fat, a fatty liver too: of masks at hand all but 0 to 3 %, of most shifted ones all but
15 to 42 %. The heart is none of them: fat and, on a coarse grid, lung are at its edge."""
HIGHEST_LUNG_HU, MIN_LUNG_SHARE = -500, 0.35
"""Aerated lung is lighter than this: 95 % of masks at hand, and a good part of a lung with a lobe that is not."""
FEWEST_VOXELS = 100
MANY_VOXELS = 1 << 20


def check_mask_coverage(mask_grid: Grid, volume_grid: Grid) -> float:
    """Return the share of the scan's field of view that the mask's covers; `CaseError` below `MIN_COVERAGE`.

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


def mask_off_organs_note(voxels: np.ndarray, organs: np.ndarray, names: Sequence[str]) -> str | None:
    """Return a sentence if what the mask calls lung is dense, or what it calls liver is fat and air; None if it lies
    well.

    `voxels` int16 HU and `organs` uint8 are [D, H, W] of one grid; `names` are those of the organs 1, 2, ...
    Of large grids every second voxel per axis is looked at; too few of an organ say nothing.
    """
    step = 2 if organs.size > MANY_VOXELS else 1
    labels, values = (array[::step, ::step, ::step].reshape(-1) for array in (organs, voxels))
    solid, lungs = (
        values[np.isin(labels, [index for index, name in enumerate(names, start=1) if chosen(name)])]
        for chosen in (SOLID.__contains__, lambda name: name.startswith("lung_"))
    )
    if len(solid) >= FEWEST_VOXELS and float(np.mean(solid < LOWEST_SOLID_HU)) >= MAX_LOW_SHARE:
        return "much of its mask's solid organs is fat or air in the scan: is the mask shifted, or another scan's?"
    if len(lungs) >= FEWEST_VOXELS and float(np.mean(lungs < HIGHEST_LUNG_HU)) < MIN_LUNG_SHARE:
        return "most of its mask's lungs is dense in the scan: is the mask shifted, or another scan's?"
    return None
