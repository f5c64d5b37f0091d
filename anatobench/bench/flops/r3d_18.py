"""R3D-18: see torch_ref/models/r3d_18.py."""

from __future__ import annotations

from collections.abc import Iterator

from anatobench.bench.flops.product import Product, strided, voxels
from anatobench.tasks import Size

LAYOUTS = {"full": (64, 2, (1, 2, 2, 2)), "tiny": (16, 1, (1, 2, 2, 1))}
"""Width, blocks per stage, strides of the stages."""


def products(layout: str, crop_size: Size) -> Iterator[Product]:
    """Of the stem and the residual blocks."""
    width, _, _ = LAYOUTS[layout]
    size = _after_stem(crop_size)
    yield Product(voxels(size), 8, width, needs_input_gradient=False)
    channels = width
    for planes, stride in _blocks(layout):
        size = _after_block(size, stride)
        if stride != 1 or channels != planes:
            yield Product(voxels(size), channels, planes)
        yield Product(voxels(size), 27 * channels, planes)
        yield Product(voxels(size), 27 * planes, planes)
        channels = planes


def feature_map(layout: str, crop_size: Size) -> tuple[int, Size]:
    """Channels and size of F."""
    size = _after_stem(crop_size)
    for _, stride in _blocks(layout):
        size = _after_block(size, stride)
    width, _, strides = LAYOUTS[layout]
    return width * 2 ** (len(strides) - 1), size


def _blocks(layout: str) -> Iterator[tuple[int, int]]:
    """(channels, stride) of every residual block."""
    width, blocks, strides = LAYOUTS[layout]
    for stage, stride in enumerate(strides):
        for block in range(blocks):
            yield width * 2**stage, stride if block == 0 else 1


def _after_stem(size: Size) -> Size:
    return strided(size, kernel=(2, 2, 2), stride=(2, 2, 2), padding=(0, 0, 0))


def _after_block(size: Size, stride: int) -> Size:
    return strided(size, kernel=(3, 3, 3), stride=(stride,) * 3, padding=(1, 1, 1))
