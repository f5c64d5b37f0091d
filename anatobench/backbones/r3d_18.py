"""R3D-18: torchvision's VideoResNet with the paper's stem (Table 7), and a tiny one of the same class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anatobench.backbones.card import BackboneCard, RecipeRow
from anatobench.backbones.products import Product, strided, voxels
from anatobench.backbones.published_weights import CLASSIFIER, PYTORCH, PublishedWeights
from anatobench.tasks import Size


@dataclass(frozen=True)
class Layout:
    """What differs between the sizes. Channels double from stage to stage."""

    width: int
    """Channels of the stem and of the first stage."""
    blocks: int
    """Residual blocks per stage."""
    strides: tuple[int, int, int, int]
    """Of each stage's first block, on all axes; the stem comes before."""


LAYOUTS = {
    "full": Layout(width=64, blocks=2, strides=(1, 2, 2, 2)),  # torchvision.models.video.r3d_18
    # A quarter of the full one's stride for crops of a quarter of its voxels per axis: the map is as fine, measured on
    # the anatomy. A coarser one leaves a kidney or spleen no cell of its own, and supervision nothing to say.
    "tiny": Layout(width=12, blocks=1, strides=(1, 2, 1, 1)),
}
STEM_STRIDE = 2
"""On all axes, and the side of the stem's kernel: Table 7."""
_STEM: Size = (STEM_STRIDE, STEM_STRIDE, STEM_STRIDE)


def products(layout: Layout, crop_size: Size) -> Iterator[Product]:
    """Yield the convolutions of the stem and the residual blocks."""
    grid = _after_stem(crop_size)
    yield Product(voxels(grid), voxels(_STEM), layout.width, needs_input_gradient=False)
    channels = layout.width
    for planes, stride in _blocks(layout):
        grid = _after_block(grid, stride)
        if stride != 1 or channels != planes:
            yield Product(voxels(grid), channels, planes)
        yield Product(voxels(grid), 27 * channels, planes)
        yield Product(voxels(grid), 27 * planes, planes)
        channels = planes


def feature_map(layout: Layout, crop_size: Size) -> tuple[int, Size]:
    """Return channels and grid of the feature map F."""
    grid = _after_stem(crop_size)
    for _, stride in _blocks(layout):
        grid = _after_block(grid, stride)
    return layout.width * 2 ** (len(layout.strides) - 1), grid


def _blocks(layout: Layout) -> Iterator[tuple[int, int]]:
    """Yield (channels, stride) of every residual block."""
    for stage, stride in enumerate(layout.strides):
        for block in range(layout.blocks):
            yield layout.width * 2**stage, stride if block == 0 else 1


def _after_stem(crop_size: Size) -> Size:
    return strided(crop_size, kernel=_STEM, stride=_STEM, padding=(0, 0, 0))


def _after_block(grid: Size, stride: int) -> Size:
    return strided(grid, kernel=(3, 3, 3), stride=(stride,) * 3, padding=(1, 1, 1))


CARD = BackboneCard(
    name="r3d_18",
    layouts=LAYOUTS,
    products=products,
    feature_map=feature_map,
    classifier="fc.",
    recipe_rows={"chest": RecipeRow(1e-4, 10), "abdomen": RecipeRow(1e-4, 5)},
    has_batch_norm=True,
    has_dropout=False,
    has_kinks=True,
    compiles_long=False,
    published=PublishedWeights(
        PYTORCH,
        "r3d_18-b3b3357e.pth",
        {"stem.0.": "it takes colour, its kernel is 3x7x7 instead of 2x2x2", "fc.": CLASSIFIER},
    ),
    tiny_learning_rate=4e-3,
)
