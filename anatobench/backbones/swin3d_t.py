"""Swin3D-T: torchvision's SwinTransformer3d with the paper's patch (Table 7), and a tiny one of the same class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anatobench.backbones.card import BackboneCard, RecipeRow
from anatobench.backbones.products import Product, voxels
from anatobench.backbones.published_weights import CLASSIFIER, PATCHES, PYTORCH, PublishedWeights
from anatobench.tasks import Size


@dataclass(frozen=True)
class Layout:
    """What differs between the sizes. Channels double and the grid halves in plane from stage to stage."""

    patch: Size
    channels: int
    """Of a patch and of the first stage."""
    depths: tuple[int, ...]
    """Blocks per stage; every second one shifts its windows by half."""
    heads: tuple[int, ...]
    """Attention heads per stage."""
    window: Size


LAYOUTS = {
    # torchvision.models.video.swin3d_t but for the patch
    "full": Layout((16, 2, 2), channels=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=(8, 7, 7)),
    # Small, yet nothing of the full one is missing at the tiny geometries: the chest's grid of 6x24x24 shrinks the
    # window in depth and is padded in plane, the abdomen's of 10x22x24 is padded on all axes and merges an odd 11.
    "tiny": Layout((4, 2, 2), channels=16, depths=(2, 2, 2), heads=(1, 2, 4), window=(8, 5, 5)),
}
STOCHASTIC_DEPTH = 0.1
"""Of the last block, growing linearly from 0 at the first: torchvision's value for Swin3D-T."""
_INDEX = "relative_position_index"


def products(layout: Layout, crop_size: Size) -> Iterator[Product]:
    """Yield the products of the patches, the blocks and the mergings between stages."""
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


def feature_map(layout: Layout, crop_size: Size) -> tuple[int, Size]:
    """Return channels and grid of the feature map F."""
    grid = _divided(crop_size, layout.patch)
    for _ in layout.depths[1:]:
        grid = _divided(grid, (1, 2, 2))
    return layout.channels * 2 ** (len(layout.depths) - 1), grid


def relative_position_indices(layout: Layout) -> dict[str, np.ndarray]:
    """Return torchvision's `relative_position_index` of every block, int64 [tokens, tokens] of a window.

    It is the row of the block's bias table for two tokens: their distances along d, h and w, counted from the most
    negative one, as one number in base (2d - 1, 2h - 1, 2w - 1) (torchvision's `ShiftedWindowAttention3d`).
    """
    places = np.indices(layout.window).reshape(3, -1)
    distances = places[:, :, None] - places[:, None, :] + np.reshape(layout.window, (3, 1, 1)) - 1
    _, rows, columns = (2 * side - 1 for side in layout.window)
    index = (distances[0] * rows + distances[1]) * columns + distances[2]
    return {  # a merging of patches stands between two stages
        f"features.{2 * stage}.{block}.attn.{_INDEX}": index
        for stage, depth in enumerate(layout.depths)
        for block in range(depth)
    }


def _divided(size: Size, divisor: Size) -> Size:
    """Round up: what does not fill a patch or a window is padded."""
    d, h, w = (-(-length // step) for length, step in zip(size, divisor, strict=True))
    return d, h, w


CARD = BackboneCard(
    name="swin3d_t",
    layouts=LAYOUTS,
    products=products,
    feature_map=feature_map,
    classifier="head.",
    recipe_rows={"chest": RecipeRow(5e-5, 6), "abdomen": RecipeRow(1e-5, 2)},
    has_batch_norm=False,
    has_dropout=True,
    has_kinks=False,
    compiles_long=True,
    published=PublishedWeights(PYTORCH, "swin3d_t-7615ae03.pth", {"patch_embed.proj.": PATCHES, "head.": CLASSIFIER}),
    tiny_learning_rate=2e-3,
    fixed_buffers=relative_position_indices,
    unread=(f".{_INDEX}",),
)
