"""What is predicted and supervised: label groups, organs, HU window, spacing and crop sizes.

Sizes and windows are those of the AutoSeg paper's Table 5, the RATIC sample weights those of its section 3.1
(they equal the Kaggle competition's), the label names those of each data set's own CSV.
All sizes and spacings are (D, H, W) = (superior-inferior, anterior-posterior, left-right).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from anatobench.errors import UsageError

Size = tuple[int, int, int]
Spacing = tuple[float, float, float]

IGNORED_ORGAN = 255
"""Organ index of voxels that carry no mask; the segmentation loss leaves them out."""
STORED_HU = (-1000, 1000)
"""What scans are clipped to in a store."""
MAX_STORED_VOXELS = 2**28
"""Of one prepared scan: half a GiB of int16."""
MISSING_TARGET = -1
"""Target of a label that is not known for a case; the losses and metrics leave it out."""


@dataclass(frozen=True)
class LabelGroup:
    """Mutually exclusive grades of one finding; grade 0 is the healthy or absent one.

    Two grades are one sigmoid logit, more are one softmax logit each.
    """

    name: str
    grades: tuple[str, ...] = ("absent", "present")
    sample_weights: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.grades) < 2 or len(self.grades) != len(self.sample_weights):
            raise UsageError(f"label group {self.name}: needs at least two grades and one weight per grade")
        if len(set(self.grades)) < len(self.grades):
            raise UsageError(f"label group {self.name}: grades {', '.join(self.grades)}: each needs a name of its own")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.sample_weights):
            raise UsageError(f"label group {self.name}: weights {self.sample_weights}: give numbers above 0")

    @property
    def binary(self) -> bool:
        return len(self.grades) == 2

    @property
    def logit_count(self) -> int:
        return 1 if self.binary else len(self.grades)


@dataclass(frozen=True)
class MaskClass:
    """What one sigmoid finds: a set of organs, so that a class may hold another (a liver its tumour) and organ masks
    still say one organ per voxel."""

    name: str
    organs: tuple[str, ...]
    """Names of the task's organs."""


def _three(sizes: tuple[int, ...]) -> Size:
    depth, height, width = sizes
    return depth, height, width


@dataclass(frozen=True)
class Geometry:
    """How a scan is resampled, padded or cropped for the store, and cropped for the model."""

    spacing: Spacing
    """Millimetres between voxel centres."""
    padded_size: Size
    crop_size: Size

    def __post_init__(self) -> None:
        if not all(math.isfinite(mm) and mm > 0 for mm in self.spacing):
            raise UsageError(f"spacing {self.spacing}: give three numbers of millimetres above 0")
        if min(self.crop_size) < 1 or any(c > p for c, p in zip(self.crop_size, self.padded_size, strict=True)):
            raise UsageError(f"crop {self.crop_size}: has to lie within {self.padded_size} voxels, the stored scan's")
        if math.prod(self.padded_size) > MAX_STORED_VOXELS:
            raise UsageError(f"{self.padded_size} voxels per scan are over the limit of {MAX_STORED_VOXELS}")

    @property
    def field_of_view(self) -> Spacing:
        """What the model sees, in millimetres (D, H, W)."""
        depth, height, width = (n * mm for n, mm in zip(self.crop_size, self.spacing, strict=True))
        return depth, height, width

    @property
    def in_words(self) -> str:
        """Voxels, what each covers, and what all of them do."""
        voxels, spacing, view = (
            " x ".join(f"{n:g}" for n in three) for three in (self.crop_size, self.spacing, self.field_of_view)
        )
        return f"{voxels} voxels of {spacing} mm, {view} mm in all"

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Geometry:
        """Return a geometry from its fields in plain JSON types."""
        depth, height, width = (float(mm) for mm in data["spacing"])
        padded, crop = (tuple(int(n) for n in data[name]) for name in ("padded_size", "crop_size"))
        return Geometry((depth, height, width), _three(padded), _three(crop))

    @staticmethod
    def around(spacing: Spacing, crop_size: Size) -> Geometry:
        """Return the geometry of an own cohort: scans are stored a quarter larger than the crop, as the paper's chest
        is, so that random crops have room."""
        depth, height, width = (math.ceil(1.25 * n) for n in crop_size)
        return Geometry(spacing, (depth, height, width), crop_size)


@dataclass(frozen=True)
class Task:
    """One diagnosis task with its auxiliary segmentation."""

    name: str
    anatomy: str
    groups: tuple[LabelGroup, ...]
    organs: tuple[str, ...]
    """`organs[i]` has index i + 1 in organ masks; 0 is background."""
    window: tuple[float, float]
    """HU clipped to this range and mapped to [-1, 1] on the device."""
    any_injury_sample_weights: tuple[float, float] | None = None
    """Sample weights (none, any) of the derived `any_injury` label; None where the task has no such label."""
    report_all_grades: bool = False
    """Whether metrics list every grade of a group (RATIC's 14 columns) or the positive grade alone."""
    classes: tuple[MaskClass, ...] = ()
    """What masks annotate, where that is not each organ by itself; see `mask_classes`."""
    case_weights: bool = False
    """Whether cases have weights of their own (`StoredCase.weight`), which batches then hold as `weight`."""
    own_geometry: Geometry | None = None
    """Of a cohort whose spacing and crop somebody chose: it is that of both sizes, which then name the model alone."""

    def __post_init__(self) -> None:
        for one in self.classes:
            unknown = [organ for organ in one.organs if organ not in self.organs]
            if unknown or not one.organs:
                raise UsageError(f"task {self.name}: class {one.name} needs organs of the task, not {unknown}")

    @property
    def mask_classes(self) -> tuple[MaskClass, ...]:
        """The classes whose masks may be annotated, each by itself: `classes`, or one per organ."""
        return self.classes or tuple(MaskClass(organ, (organ,)) for organ in self.organs)

    @property
    def organ_sets(self) -> tuple[tuple[int, ...], ...]:
        """Of each of `mask_classes` the indices that it has in organ masks."""
        return tuple(tuple(self.organs.index(organ) + 1 for organ in one.organs) for one in self.mask_classes)

    @property
    def logit_count(self) -> int:
        return sum(group.logit_count for group in self.groups)

    @property
    def segmentation_classes(self) -> int:
        """Organs and background."""
        return len(self.organs) + 1

    @property
    def logit_slices(self) -> tuple[slice, ...]:
        """Where each group's logits stand in the model's output, in the order of `groups`."""
        slices, start = [], 0
        for group in self.groups:
            slices.append(slice(start, start + group.logit_count))
            start += group.logit_count
        return tuple(slices)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The columns of predictions and metrics."""
        if not self.report_all_grades:
            return tuple(group.name for group in self.groups)
        names = tuple(f"{group.name}_{grade}" for group in self.groups for grade in group.grades)
        return (*names, "any_injury") if self.any_injury_sample_weights else names

    def geometry(self, size: str) -> Geometry:
        """Return the geometry named `full` (the paper's) or `tiny` (a quarter of it per axis, for CPU work), or the
        task's own."""
        named = GEOMETRIES[self.anatomy]
        if size not in named:
            raise UsageError(f"size {size!r}: choose one of {', '.join(named)}")
        return self.own_geometry or named[size]

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain JSON types, so that a store or a run can be read without this file."""
        data = asdict(self)
        for later in ("classes", "case_weights", "own_geometry"):
            if not data[later]:
                del data[later]  # as it is written in stores that are older
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Return the inverse of `to_json`."""
        groups = tuple(
            LabelGroup(g["name"], tuple(g["grades"]), tuple(float(w) for w in g["sample_weights"]))
            for g in data["groups"]
        )
        weights = data["any_injury_sample_weights"]
        if weights is not None:
            none, some = weights
            weights = (float(none), float(some))
        low, high = data["window"]
        own = data.get("own_geometry")
        return Task(
            name=data["name"],
            anatomy=data["anatomy"],
            groups=groups,
            organs=tuple(data["organs"]),
            window=(float(low), float(high)),
            any_injury_sample_weights=weights,
            report_all_grades=bool(data["report_all_grades"]),
            classes=tuple(MaskClass(c["name"], tuple(c["organs"])) for c in data.get("classes", ())),
            case_weights=bool(data.get("case_weights", False)),
            own_geometry=None if own is None else Geometry.from_json(own),
        )


CHEST_ORGANS = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
    "heart",
)
ABDOMEN_ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "bowel")

ORGANS: Mapping[str, tuple[str, ...]] = {"chest": CHEST_ORGANS, "abdomen": ABDOMEN_ORGANS}
WINDOWS: Mapping[str, tuple[float, float]] = {"chest": (-1000.0, 200.0), "abdomen": (-150.0, 250.0)}
GEOMETRIES: Mapping[str, Mapping[str, Geometry]] = {
    "chest": {
        "full": Geometry((3.0, 1.5, 1.5), (120, 240, 240), (96, 192, 192)),
        "tiny": Geometry((12.0, 6.0, 6.0), (30, 60, 60), (24, 48, 48)),
    },
    "abdomen": {
        "full": Geometry((3.0, 1.5, 1.5), (192, 256, 256), (160, 176, 192)),
        "tiny": Geometry((12.0, 6.0, 6.0), (48, 64, 64), (40, 44, 48)),
    },
}

RATIC = Task(
    name="ratic",
    anatomy="abdomen",
    groups=(
        LabelGroup("bowel", ("healthy", "injury"), (1.0, 2.0)),
        LabelGroup("extravasation", ("healthy", "injury"), (1.0, 6.0)),
        LabelGroup("kidney", ("healthy", "low", "high"), (1.0, 2.0, 4.0)),
        LabelGroup("liver", ("healthy", "low", "high"), (1.0, 2.0, 4.0)),
        LabelGroup("spleen", ("healthy", "low", "high"), (1.0, 2.0, 4.0)),
    ),
    organs=ABDOMEN_ORGANS,
    window=WINDOWS["abdomen"],
    any_injury_sample_weights=(1.0, 6.0),
    report_all_grades=True,
)

CT_RATE_LABELS = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
RAD_CHESTCT_LABELS = (
    "catheter_or_port",
    "lymphadenopathy",
    "septal_thickening",
    "hernia",
    "nodule",
    "pericardial_effusion",
    "scarring",
    "bronchial_wall_thickening",
    "opacity",
    "emphysema",
    "cardiomegaly",
    "pleural_effusion",
    "bronchiectasis",
    "consolidation",
    "atelectasis",
    "calcification",
)


def multi_label_task(
    name: str,
    anatomy: str,
    labels: tuple[str | LabelGroup, ...],
    window: tuple[float, float] | None = None,
    own_geometry: Geometry | None = None,
) -> Task:
    """Return a task of independent findings, as CT-RATE, RAD-ChestCT and own cohorts are: present or absent, where no
    label group says otherwise; window and geometry are the anatomy's unless they are given. If a finding has more than
    two grades, all grades are listed, as RATIC's are."""
    if anatomy not in ORGANS:
        raise UsageError(f"anatomy {anatomy!r}: choose one of {', '.join(ORGANS)}")
    groups = tuple(label if isinstance(label, LabelGroup) else LabelGroup(label) for label in labels)
    return Task(
        name, anatomy, groups, ORGANS[anatomy], window or WINDOWS[anatomy],
        report_all_grades=not all(group.binary for group in groups), own_geometry=own_geometry,
    )  # fmt: skip


TASKS: Mapping[str, Task] = {
    "ratic": RATIC,
    "ct_rate": multi_label_task("ct_rate", "chest", CT_RATE_LABELS),
    "rad_chestct": multi_label_task("rad_chestct", "chest", RAD_CHESTCT_LABELS),
}


def get_task(name: str) -> Task:
    """Return the task of that name; `UsageError` lists the names there are."""
    if name not in TASKS:
        raise UsageError(f"task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]
