"""torchvision's Kinetics-400 weights of the three backbones, and what of them the changed models cannot take.

Names and addresses are torchvision's (torchvision/models/video: `R3D_18_Weights`, `Swin3D_T_Weights`,
`MViT_V2_S_Weights`, each `KINETICS400_V1`); the eight hexadecimal digits are the beginning of the file's SHA-256.
The changes are those of the paper's Table 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ADDRESS = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class PublishedWeights:
    """One file, and how it differs from the model that begins with it."""

    file: str
    skipped: Mapping[str, str]
    """Beginning of a name to the reason why arrays of such names are not taken: the model keeps those it drew."""
    resized: tuple[str, ...] = field(default=())
    """Ends of the names of relative-position tables, whose length follows the crop's size."""

    @property
    def address(self) -> str:
        """Where the file is published."""
        return ADDRESS + self.file


_CLASSIFIER = "it tells 400 human actions apart"
_PATCHES = "it takes colour patches of another size"

KINETICS_400: Mapping[str, PublishedWeights] = {
    "r3d_18": PublishedWeights(
        "r3d_18-b3b3357e.pth",
        {"stem.0.": "it takes colour, its kernel is 3x7x7 instead of 2x2x2", "fc.": _CLASSIFIER},
    ),
    "swin3d_t": PublishedWeights("swin3d_t-7615ae03.pth", {"patch_embed.proj.": _PATCHES, "head.": _CLASSIFIER}),
    "mvit_v2_s": PublishedWeights(
        "mvit_v2_s-ae3be167.pth",
        {"conv_proj.": _PATCHES, "head.": _CLASSIFIER},
        resized=(".rel_pos_h", ".rel_pos_w", ".rel_pos_t"),
    ),
}
