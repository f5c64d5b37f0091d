"""Swin3D-T: see torch_ref/models/swin3d_t.py."""

from __future__ import annotations

from collections.abc import Iterator

from anatobench.backbones.swin3d_t import LAYOUTS
from anatobench.bench.flops.product import Product, voxels
from anatobench.tasks import Size


def products(size: str, crop_size: Size) -> Iterator[Product]:
    """Of the patches, the blocks and the mergings between stages."""
    layout = LAYOUTS[size]
    grid, channels = _divided(crop_size, layout.patch), layout.channels
    yield Product(voxels(grid), voxels(layout.patch), channels, needs_input_gradient=False)
    for stage, depth in enumerate(layout.depths):
        if stage > 0:
            grid = _divided(grid, (1, 2, 2))
            yield Product(voxels(grid), 4 * channels, 2 * channels)
            channels *= 2
        for _ in range(depth):
            yield from _block(grid, channels, layout.window)


def _block(grid: Size, channels: int, window: Size) -> Iterator[Product]:
    """Heads do not matter: they divide `channels` in the products of the attention and multiply their number."""
    d, h, w = (min(length, side) for length, side in zip(grid, window, strict=True))
    in_window = d * h * w
    padded = voxels(_divided(grid, (d, h, w))) * in_window
    yield Product(padded, channels, 3 * channels)
    yield Product(padded, channels, in_window)  # queries with the keys of their window
    yield Product(padded, in_window, channels)  # weights with the values
    yield Product(padded, channels, channels)
    yield Product(voxels(grid), channels, 4 * channels)
    yield Product(voxels(grid), 4 * channels, channels)


def feature_map(size: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and grid of F."""
    layout = LAYOUTS[size]
    grid = _divided(crop_size, layout.patch)
    for _ in layout.depths[1:]:
        grid = _divided(grid, (1, 2, 2))
    return layout.channels * 2 ** (len(layout.depths) - 1), grid


def _divided(size: Size, divisor: Size) -> Size:
    """Rounded up: what does not fill a patch or a window is padded."""
    d, h, w = (-(-length // step) for length, step in zip(size, divisor, strict=True))
    return d, h, w
