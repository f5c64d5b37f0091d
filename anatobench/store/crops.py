"""Where a crop starts inside a prepared volume."""

from __future__ import annotations

import numpy as np

from anatobench.tasks import Size


def centre_crop_start(size: Size, crop: Size) -> Size:
    """First voxel of a centred crop; an odd voxel is left over at the end."""
    d, h, w = (room // 2 for room in _room(size, crop))
    return d, h, w


def random_crop_start(rng: np.random.Generator, size: Size, crop: Size) -> Size:
    """First voxel of a crop, uniform over all positions inside `size`. Draws once per axis, in the order D, H, W."""
    d, h, w = (int(rng.integers(0, room, endpoint=True)) for room in _room(size, crop))
    return d, h, w


def _room(size: Size, crop: Size) -> Size:
    d, h, w = (s - c for s, c in zip(size, crop, strict=True))
    if min(d, h, w) < 0:
        raise ValueError(f"a crop of {crop} does not fit into {size}")
    return d, h, w
