"""What a person may choose when a data set is listed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anatobench.errors import UsageError
from anatobench.tasks import STORED_HU, LabelGroup, Size, Spacing
from anatobench.volumes.mask_templates import TEMPLATE_NAMES

WEIGHTS = ("balanced",)
RESCALE = ("auto", "raw", "hu")
MASK_LABELS = ("auto", "totalsegmentator_v2", "totalsegmentator_v1", "ratic", *TEMPLATE_NAMES)


@dataclass(frozen=True)
class ListingOptions:
    """Every option of every data set; `registry.DATASETS` says which data set knows which."""

    masks: Path | None = None
    """Folder with one organ mask per scan, named after the scan; it is preferred to masks of the data set's own."""
    mask_labels: str = "auto"
    """The label map of the masks in `masks`."""
    validation_fraction: float = 0.0
    """Share of the training patients that become the validation split."""
    seed: int = 0
    """Of every split that is drawn."""
    csv: str | None = None
    """Name of the label table inside the data set's folder, where there is a choice."""
    rescale: str = "auto"
    """`hu`: the scans are in HU whatever their voxels look like. CT-RATE: whether files hold raw stored values (`raw`)
    or HU (`hu`)."""
    keep_validation: bool = False
    """RAD-ChestCT: imgvalid is the validation split instead of a part of train."""
    mapping: Path | None = None
    """RAD-ChestCT: JSON file, class to the abnormalities that count as it."""
    task: str | None = None
    """Manifest: a built-in task whose label names the columns use. Organ folders: the one whose organs are wanted."""
    anatomy: str | None = None
    """Manifest: `chest` or `abdomen`, where no task is named."""
    window: tuple[float, float] | None = None
    """Manifest: HU that the model tells apart, where not the anatomy's."""
    spacing: Spacing | None = None
    """Manifest: millimetres (D, H, W) between the voxels of the store, where not the anatomy's; with `crop`."""
    crop: Size | None = None
    """Manifest: voxels (D, H, W) that the model sees."""
    grades: tuple[LabelGroup, ...] = ()
    """Manifest: findings that are not just absent or present, or whose grades have weights."""
    weights: str | None = None
    """Manifest: `balanced`, for weights of all grades from their shares of the training cases."""
    allow_absolute: bool = False
    """Manifest: whether absolute paths and links out of its folder, which may point anywhere, are followed."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise UsageError(f"validation fraction {self.validation_fraction}: choose a number from 0 to below 1")
        if self.rescale not in RESCALE:
            raise UsageError(f"rescale {self.rescale!r}: choose one of {', '.join(RESCALE)}")
        if self.mask_labels not in MASK_LABELS:
            raise UsageError(f"mask labels {self.mask_labels!r}: choose one of {', '.join(MASK_LABELS)}")
        if (self.spacing is None) != (self.crop is None):
            raise UsageError("spacing and crop go together: millimetres between voxels, and how many the model sees")
        if self.window is not None and not STORED_HU[0] <= self.window[0] < self.window[1] <= STORED_HU[1]:
            raise UsageError(f"window {self.window}: give two HU, the lower one first, within {STORED_HU}")
        if self.weights not in (None, *WEIGHTS):
            raise UsageError(f"weights {self.weights!r}: choose {', '.join(WEIGHTS)}, or leave it out")
        if self.masks is not None and not self.masks.is_dir():
            raise UsageError(f"{self.masks}: there is no such folder of masks")
