"""The 3D sets of MedMNIST v2 (doi:10.1038/s41597-022-01721-8), each one file with its official splits.

Names, classes and splits are those of the package `medmnist`. The volumes are crops of 28 or 64 voxels a side with grey
values, so window and geometry are their own; there are no organ masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anatobench.datasets.case import Case, Listing, Rejection
from anatobench.datasets.options import ListingOptions
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.tasks import Geometry, LabelGroup, Size, Task
from anatobench.volumes.medmnist3d_npz import read_medmnist3d_labels, read_medmnist3d_size

PARTS = {"train": "train", "val": "validation", "test": "test"}
GREY_VALUES = (0.0, 255.0)
BENCHMARK = "MedMNIST v2"
PUBLISHED = f"{BENCHMARK}, ResNet-50 + 3D"
"""Whose AUC `Set.published_auc` is. The paper was not at hand: the numbers are those of the benchmark table on
medmnist.com/v2 as the public repository habib-analyst/MedMNIST_v2_Reproducibility_Benchmark copied it on 2026-09-21
(configs/benchmark-references.json). A second copy, in another repository, has the same ones, but 0.905 for vessels and
none for synapses. No whole copy of the row ResNet-18 + 3D was found, so it is left out."""


@dataclass(frozen=True)
class Set:
    """What one of the sets asks."""

    group: str
    grades: tuple[str, ...]
    anatomy: str
    """Whose row of the paper's recipe the backbones take; nothing else depends on it."""
    published_auc: float
    """Test AUC of ResNet-50 with 3D convolutions on 28 voxels a side in MedMNIST v2's own benchmark (`PUBLISHED`)."""


SETS: Mapping[str, Set] = {
    "organmnist3d": Set(
        "organ",
        ("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right",
         "lung-left", "spleen", "pancreas"),
        "abdomen",
        0.994,
    ),
    "nodulemnist3d": Set("nodule", ("benign", "malignant"), "chest", 0.875),
    "adrenalmnist3d": Set("adrenal", ("normal", "hyperplasia"), "abdomen", 0.828),
    "fracturemnist3d": Set("fracture", ("buckle", "nondisplaced", "displaced"), "chest", 0.725),
    "vesselmnist3d": Set("segment", ("vessel", "aneurysm"), "chest", 0.907),
    "synapsemnist3d": Set("synapse", ("inhibitory", "excitatory"), "chest", 0.851),
}  # fmt: skip


def task_of_set(name: str) -> Task | None:
    """Return the task of a set with 28 voxels a side; None if there is no such set."""
    return task_of(name, (28, 28, 28)) if name in SETS else None


def list_cases(file: Path, options: ListingOptions | None = None) -> Listing:
    """Return every volume of `file`, such as organmnist3d.npz or organmnist3d_64.npz, in its official split."""
    name = file.stem.removesuffix("_64")
    if name not in SETS:
        raise AnatoBenchError(f"{file}: its name is none of MedMNIST's 3D sets: {', '.join(SETS)} (.npz or _64.npz)")
    asked, cases, rejected, sizes = SETS[name], [], [], set()
    try:
        for part, split in PARTS.items():
            labels = read_medmnist3d_labels(file, part).tolist()
            count, size = read_medmnist3d_size(file, part)
            sizes.add(size)
            if count != len(labels):
                raise CaseError("bad-npz", f"{file}: {part} has {count} volumes and {len(labels)} labels")
            for index, label in enumerate(labels):
                case_id = f"{part}_{index:05d}"
                if 0 <= label < len(asked.grades):
                    cases.append(Case(case_id, case_id, file, split, (label,), member=f"{part}/{index}"))
                else:
                    message = f"label {label}: {name} has 0 to {len(asked.grades) - 1}"
                    rejected.append(Rejection(case_id, str(file), "bad-label", message))
    except CaseError as error:  # one file holds all cases
        raise AnatoBenchError(str(error)) from None
    if len(sizes) > 1:
        raise AnatoBenchError(f"{file}: volumes of {len(sizes)} sizes, {sorted(sizes)}: download it again")
    notes = (
        "grey values 0 to 255, not HU; a voxel counts as a millimetre, and the axes as they come",
        "the file names no patients: every volume counts as one of its own, so intervals may be too narrow",
    )
    return Listing(task_of(name, sizes.pop()), tuple(cases), tuple(rejected), notes)


def task_of(name: str, size: Size) -> Task:
    """Return the task of one of `SETS` for volumes of `size` voxels, of which the model sees all."""
    asked = SETS[name]
    return Task(
        name=name,
        anatomy=asked.anatomy,
        groups=(LabelGroup(asked.group, asked.grades, (1.0,) * len(asked.grades)),),
        organs=(),
        window=GREY_VALUES,
        report_all_grades=len(asked.grades) > 2,
        own_geometry=Geometry((1.0, 1.0, 1.0), size, size),
    )
