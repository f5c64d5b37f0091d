"""Swin3D-T: see torch_ref/models/swin3d_t.py."""

from __future__ import annotations

from collections.abc import Iterator

from anatobench.bench.flops.product import Product, voxels
from anatobench.tasks import Size

LAYOUTS: dict[str, tuple[Size, int, tuple[int, ...], Size]] = {
    "full": ((16, 2, 2), 96, (2, 2, 6, 2), (8, 7, 7)),
    "tiny": ((4, 2, 2), 16, (2, 2, 2), (8, 5, 5)),
}
"""Patch, channels of the first stage, blocks per stage, window."""


def products(layout: str, crop_size: Size) -> Iterator[Product]:
    """Of the patches, the blocks and the mergings between stages."""
    patch, channels, depths, window = LAYOUTS[layout]
    size = _divided(crop_size, patch)
    yield Product(voxels(size), voxels(patch), channels, needs_input_gradient=False)
    for stage, depth in enumerate(depths):
        if stage > 0:
            size = _divided(size, (1, 2, 2))
            yield Product(voxels(size), 4 * channels, 2 * channels)
            channels *= 2
        for _ in range(depth):
            yield from _block(size, channels, window)


def _block(size: Size, channels: int, window: Size) -> Iterator[Product]:
    """Heads do not matter: they divide `channels` in the products of the attention and multiply their number."""
    d, h, w = (min(length, side) for length, side in zip(size, window, strict=True))
    in_window = d * h * w
    padded = voxels(_divided(size, (d, h, w))) * in_window
    yield Product(padded, channels, 3 * channels)
    yield Product(padded, channels, in_window)  # queries with the keys of their window
    yield Product(padded, in_window, channels)  # weights with the values
    yield Product(padded, channels, channels)
    yield Product(voxels(size), channels, 4 * channels)
    yield Product(voxels(size), 4 * channels, channels)


def feature_map(layout: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and size of F."""
    patch, channels, depths, _ = LAYOUTS[layout]
    size = _divided(crop_size, patch)
    for _ in depths[1:]:
        size = _divided(size, (1, 2, 2))
    return channels * 2 ** (len(depths) - 1), size


def _divided(size: Size, divisor: Size) -> Size:
    """Rounded up: what does not fill a patch or a window is padded."""
    d, h, w = (-(-length // step) for length, step in zip(size, divisor, strict=True))
    return d, h, w
