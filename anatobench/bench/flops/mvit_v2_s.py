"""MViT-v2-S: see torch_ref/models/mvit_v2_s.py."""

from __future__ import annotations

from collections.abc import Iterator

from anatobench.backbones.mvit_v2_s import LAYOUTS, Layout, token_grids
from anatobench.bench.flops.product import Product, strided, voxels
from anatobench.tasks import Size


def products(size: str, crop_size: Size) -> Iterator[Product]:
    """Of the patches and the blocks."""
    layout = LAYOUTS[size]
    grids = token_grids(layout, crop_size)
    yield Product(voxels(grids[0]), voxels(layout.patch), layout.channels[0], needs_input_gradient=False)
    for index in range(len(layout.heads)):
        yield from _block(layout, index, grids[index], grids[index + 1])


def _block(layout: Layout, index: int, grid: Size, query_grid: Size) -> Iterator[Product]:
    channels, outputs = layout.channels[index : index + 2]
    key_grid = _pooled(grid, layout.key_value_strides[index])
    tokens, queries, keys = (1 + voxels(g) for g in (grid, query_grid, key_grid))
    yield Product(tokens, channels, 3 * outputs)
    for pooled_grid in (query_grid, key_grid, key_grid):
        yield Product(voxels(pooled_grid), 27, outputs)  # depthwise
    yield Product(queries, outputs, keys)  # all heads: each has its share of the channels
    yield Product(voxels(query_grid), outputs, sum(key_grid))  # relative positions along the three axes
    yield Product(queries, keys, outputs)
    yield Product(queries, outputs, outputs)
    if channels != outputs:
        yield Product(tokens, channels, outputs)  # the skip, before it is pooled
    yield Product(queries, outputs, 4 * outputs)
    yield Product(queries, 4 * outputs, outputs)


def feature_map(size: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and grid of F."""
    layout = LAYOUTS[size]
    return layout.channels[-1], token_grids(layout, crop_size)[-1]


def _pooled(grid: Size, stride: int) -> Size:
    return strided(grid, kernel=(3, 3, 3), stride=(1, stride, stride), padding=(1, 1, 1))
