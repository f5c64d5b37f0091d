"""R3D-18: torchvision's VideoResNet with the paper's stem (Table 7), and a tiny one of the same class."""

from __future__ import annotations

from dataclasses import dataclass


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
HAS_DROPOUT = False
"""Whether a training step draws dropout or stochastic depth (`Recipe.dropout`)."""
STEM_STRIDE = 2
"""On all axes, and the side of the stem's kernel: Table 7."""
