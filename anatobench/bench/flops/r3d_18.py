"""R3D-18: see torch_ref/models/r3d_18.py."""

from __future__ import annotations

from collections.abc import Iterator

from anatobench.backbones.r3d_18 import LAYOUTS, STEM_STRIDE, Layout
from anatobench.bench.flops.product import Product, strided, voxels
from anatobench.tasks import Size

STEM: Size = (STEM_STRIDE, STEM_STRIDE, STEM_STRIDE)


def products(size: str, crop_size: Size) -> Iterator[Product]:
    """Of the stem and the residual blocks."""
    layout = LAYOUTS[size]
    grid = _after_stem(crop_size)
    yield Product(voxels(grid), voxels(STEM), layout.width, needs_input_gradient=False)
    channels = layout.width
    for planes, stride in _blocks(layout):
        grid = _after_block(grid, stride)
        if stride != 1 or channels != planes:
            yield Product(voxels(grid), channels, planes)
        yield Product(voxels(grid), 27 * channels, planes)
        yield Product(voxels(grid), 27 * planes, planes)
        channels = planes


def feature_map(size: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and grid of F."""
    layout = LAYOUTS[size]
    grid = _after_stem(crop_size)
    for _, stride in _blocks(layout):
        grid = _after_block(grid, stride)
    return layout.width * 2 ** (len(layout.strides) - 1), grid


def _blocks(layout: Layout) -> Iterator[tuple[int, int]]:
    """(channels, stride) of every residual block."""
    for stage, stride in enumerate(layout.strides):
        for block in range(layout.blocks):
            yield layout.width * 2**stage, stride if block == 0 else 1


def _after_stem(crop_size: Size) -> Size:
    return strided(crop_size, kernel=STEM, stride=STEM, padding=(0, 0, 0))


def _after_block(grid: Size, stride: int) -> Size:
    return strided(grid, kernel=(3, 3, 3), stride=(stride,) * 3, padding=(1, 1, 1))
