"""MViT-v2-S: torchvision's MViT with the paper's patch (Table 7), and a tiny one of the same class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from anatobench.backbones.card import BackboneCard, RecipeRow
from anatobench.backbones.products import Product, strided, voxels
from anatobench.backbones.published_weights import CLASSIFIER, PATCHES, PYTORCH, PublishedWeights
from anatobench.errors import UsageError
from anatobench.tasks import Size


@dataclass(frozen=True)
class Layout:
    """What differs between the sizes. Pooling is in plane only; every kernel is 3x3x3."""

    patch: Size
    channels: tuple[int, ...]
    """Of the patches, then of every block's output."""
    heads: tuple[int, ...]
    """Attention heads per block."""
    query_strides: tuple[int, ...]
    """Per block; 2 halves the grid from there on."""
    key_value_strides: tuple[int, ...]
    """Per block, relative to the grid of the block's input."""


LAYOUTS = {
    "full": Layout(  # torchvision.models.video.mvit_v2_s but for the patch
        patch=(16, 2, 2),
        channels=(96, 96, 192, 192, *(384,) * 11, 768, 768),
        heads=(1, 2, 2, *(4,) * 11, 8, 8),
        query_strides=(1, 2, 1, 2, *(1,) * 10, 2, 1),
        key_value_strides=(8, 4, 4, *(2,) * 11, 1, 1),
    ),
    # Small, yet nothing of the full one is missing: blocks with more queries than keys and with fewer; skips that are
    # pooled, projected, both and neither; at the abdomen's grid of 10x22x24 also tables interpolated to the shorter
    # axis and a grid that halves unevenly.
    "tiny": Layout(
        patch=(4, 2, 2),
        channels=(8, 16, 16, 32, 64),
        heads=(1, 2, 2, 4),
        query_strides=(2, 1, 2, 1),
        key_value_strides=(4, 2, 1, 1),
    ),
}
STOCHASTIC_DEPTH = 0.2
"""Of the last block, growing linearly from 0 at the first: torchvision's value for MViT-v2-S."""


def token_grids(layout: Layout, crop_size: Size) -> tuple[Size, ...]:
    """Return the grid of tokens before every block and after the last; `UsageError` for a crop with none to spare.

    Whatever does not fill a patch is cut off, as by torchvision; a pooling rounds up.
    """
    depth, height, width = (length // patch for length, patch in zip(crop_size, layout.patch, strict=True))
    total_stride = prod(layout.query_strides)
    if depth < 1 or min(height, width) < total_stride:
        smallest = (layout.patch[0], layout.patch[1] * total_stride, layout.patch[2] * total_stride)
        raise UsageError(f"crop size {crop_size} is too small for MViT: it needs at least {smallest}")
    grids: list[Size] = [(depth, height, width)]
    for stride in layout.query_strides:
        depth, height, width = grids[-1]
        grids.append((depth, -(-height // stride), -(-width // stride)))
    return tuple(grids)


def products(layout: Layout, crop_size: Size) -> Iterator[Product]:
    """Yield the products of the patches and the blocks."""
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


def feature_map(layout: Layout, crop_size: Size) -> tuple[int, Size]:
    """Return channels and grid of the feature map F."""
    return layout.channels[-1], token_grids(layout, crop_size)[-1]


def _pooled(grid: Size, stride: int) -> Size:
    return strided(grid, kernel=(3, 3, 3), stride=(1, stride, stride), padding=(1, 1, 1))


CARD = BackboneCard(
    name="mvit_v2_s",
    layouts=LAYOUTS,
    products=products,
    feature_map=feature_map,
    classifier="head.",
    recipe_rows={"chest": RecipeRow(1e-4, 4), "abdomen": RecipeRow(1e-5, 2)},
    has_batch_norm=False,
    has_dropout=True,
    has_kinks=True,
    compiles_long=True,
    published=PublishedWeights(
        PYTORCH,
        "mvit_v2_s-ae3be167.pth",
        {"conv_proj.": PATCHES, "head.": CLASSIFIER},
        resized=(".rel_pos_h", ".rel_pos_w", ".rel_pos_t"),
    ),
    tiny_learning_rate=2e-3,
    pooling="mean of the normalised tokens without the first one, the class token; torchvision's own forward pass "
    "classifies the class token instead, which gives other probabilities",
)
