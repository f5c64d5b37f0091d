"""A file of weights that was published for a backbone, and what of it the changed model cannot take.

The names on the three cards are torchvision's (torchvision/models/video: `R3D_18_Weights`, `Swin3D_T_Weights`,
`MViT_V2_S_Weights`, each `KINETICS400_V1`); the eight hexadecimal digits are the beginning of the file's SHA-256.
The changes are those of the paper's Table 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PYTORCH = "https://download.pytorch.org/models/"
"""Where torchvision publishes its files."""
CLASSIFIER = "it tells 400 human actions apart"
"""Why a classifier is not taken."""
PATCHES = "it takes colour patches of another size"
"""Why an embedding of patches is not taken."""


@dataclass(frozen=True)
class PublishedWeights:
    """One file, and how it differs from the model that begins with it."""

    folder: str
    """Address of the folder in which it is published, with a slash at its end."""
    file: str
    """Its name. Eight hexadecimal digits before `.pth`, if it has them, are checked against its SHA-256."""
    skipped: Mapping[str, str]
    """Beginning of a name to the reason why arrays of such names are not taken: the model keeps those it drew."""
    resized: tuple[str, ...] = field(default=())
    """Ends of the names of relative-position tables, whose length follows the crop's size."""

    @property
    def address(self) -> str:
        """Where the file is published."""
        return self.folder + self.file
