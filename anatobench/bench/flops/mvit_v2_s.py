"""MViT-v2-S: see torch_ref/models/mvit_v2_s.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anatobench.bench.flops.product import Product, strided, voxels
from anatobench.tasks import Size


@dataclass(frozen=True)
class _Layout:
    patch: Size
    channels: tuple[int, ...]
    """Of the patches, then of every block's output."""
    heads: tuple[int, ...]
    query_strides: tuple[int, ...]
    key_value_strides: tuple[int, ...]


LAYOUTS = {
    "full": _Layout(
        patch=(16, 2, 2),
        channels=(96, 96, 192, 192, *(384,) * 11, 768, 768),
        heads=(1, 2, 2, *(4,) * 11, 8, 8),
        query_strides=(1, 2, 1, 2, *(1,) * 10, 2, 1),
        key_value_strides=(8, 4, 4, *(2,) * 11, 1, 1),
    ),
    "tiny": _Layout(
        patch=(4, 2, 2),
        channels=(8, 16, 16, 32, 64),
        heads=(1, 2, 2, 4),
        query_strides=(2, 1, 2, 1),
        key_value_strides=(4, 2, 1, 1),
    ),
}


def products(layout: str, crop_size: Size) -> Iterator[Product]:
    """Of the patches and the blocks."""
    table = LAYOUTS[layout]
    size = _patches(table, crop_size)
    yield Product(voxels(size), voxels(table.patch), table.channels[0], needs_input_gradient=False)
    for index in range(len(table.heads)):
        yield from _block(table, index, size)
        size = _pooled(size, table.query_strides[index])


def _block(table: _Layout, index: int, size: Size) -> Iterator[Product]:
    channels, outputs = table.channels[index : index + 2]
    query_size, key_size = _pooled(size, table.query_strides[index]), _pooled(size, table.key_value_strides[index])
    tokens, queries, keys = (1 + voxels(s) for s in (size, query_size, key_size))
    yield Product(tokens, channels, 3 * outputs)
    for pooled_size in (query_size, key_size, key_size):
        yield Product(voxels(pooled_size), 27, outputs)  # depthwise
    yield Product(queries, outputs, keys)  # all heads: each has its share of the channels
    yield Product(voxels(query_size), outputs, sum(key_size))  # relative positions along the three axes
    yield Product(queries, keys, outputs)
    yield Product(queries, outputs, outputs)
    if channels != outputs:
        yield Product(tokens, channels, outputs)  # the skip, before it is pooled
    yield Product(queries, outputs, 4 * outputs)
    yield Product(queries, 4 * outputs, outputs)


def feature_map(layout: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and size of F."""
    table = LAYOUTS[layout]
    size = _patches(table, crop_size)
    for stride in table.query_strides:
        size = _pooled(size, stride)
    return table.channels[-1], size


def _patches(table: _Layout, crop_size: Size) -> Size:
    return strided(crop_size, kernel=table.patch, stride=table.patch, padding=(0, 0, 0))


def _pooled(size: Size, stride: int) -> Size:
    return strided(size, kernel=(3, 3, 3), stride=(1, stride, stride), padding=(1, 1, 1))
