"""Swin3D-T: torchvision's SwinTransformer3d with the paper's patch (Table 7), and a tiny one of the same class."""

from __future__ import annotations

from dataclasses import dataclass

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
HAS_DROPOUT = True
"""Whether a training step draws dropout or stochastic depth (`Recipe.dropout`)."""
STOCHASTIC_DEPTH = 0.1
"""Of the last block, growing linearly from 0 at the first: torchvision's value for Swin3D-T."""
