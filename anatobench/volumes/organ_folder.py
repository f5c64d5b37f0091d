"""An organ mask as a folder with one file per organ: TotalSegmentator's data set, AbdomenAtlas.

`<organ>.nii.gz` is 1 inside and 0 outside. That a file is there says that the organ was looked for: one that is not in
the scan has a file of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from anatobench.errors import CaseError
from anatobench.tasks import Task
from anatobench.volumes.mask_templates import WITHIN
from anatobench.volumes.organs import STRUCTURES
from anatobench.volumes.read import read_mask
from anatobench.volumes.volume import Mask

SUFFIX = ".nii.gz"
OTHER_NAMES: Mapping[str, str] = {
    "gall_bladder": "gallbladder",
    "postcava": "inferior_vena_cava",
    "intestine": "small_bowel",
    "bladder": "urinary_bladder",
}
"""AbdomenAtlas's names of structures that TotalSegmentator calls otherwise."""
LARGEST_SHIFT_MM = 0.01
"""Between the files of one folder: they are written on one grid."""


def structure_files(folder: Path) -> dict[str, Path]:
    """Return the file of each structure in the folder, by TotalSegmentator's names, sorted."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX) and not path.name.startswith("."))
    stems = {path.name.removesuffix(SUFFIX): path for path in files}
    return {OTHER_NAMES.get(stem, stem): path for stem, path in stems.items()}


def files_of_task(folder: Path, task: Task) -> dict[str, Path]:
    """Return those that the task's organs are made of: themselves, their parts and what lies within them. What lies
    within another comes last."""
    parts = {part for organ in task.organs for part in (organ, *STRUCTURES.get(organ, ()))}
    parts |= {inner for inner, outer in WITHIN.items() if parts.intersection(outer)}
    chosen = [(name, path) for name, path in structure_files(folder).items() if name in parts]
    return dict(sorted(chosen, key=lambda pair: (pair[0] in WITHIN, pair[0])))


def read_organ_folder(folder: Path, task: Task) -> Mask:
    """Read the files that the task needs as one mask that carries their names.

    Where files overlap, the voxel is that of what lies within the other, and of the later name otherwise. Raises
    `CaseError`: `empty-mask` without a file of the task's organs, `not-binary` for a file with labels above 1,
    `mask-off-grid` for files of different grids.
    """
    files = files_of_task(folder, task)
    if not files:
        raise CaseError("empty-mask", f"{folder}: has no file of {', '.join(task.organs)}: it belongs to another task")
    together: Mask | None = None
    for label, path in enumerate(files.values(), start=1):
        mask = read_mask(path)
        if mask.labels.max(initial=0) > 1:
            raise CaseError(
                "not-binary", f"{path}: has labels up to {mask.labels.max()}, and an organ's file is 0 and 1 alone"
            )
        if together is None:
            together = Mask(np.zeros(mask.labels.shape, np.uint8), mask.affine, names=_numbered(files))
        elif not _same_grid(mask, together):
            raise CaseError("mask-off-grid", f"{path}: lies on another grid than the organs beside it")
        together.labels[mask.labels == 1] = label
    assert together is not None
    return together


def _numbered(names: Iterable[str]) -> dict[int, str]:
    return dict(enumerate(names, start=1))


def _same_grid(one: Mask, other: Mask) -> bool:
    if one.labels.shape != other.labels.shape:
        return False
    corners = np.array(np.meshgrid(*([0, n - 1] for n in one.labels.shape), [1], indexing="ij")).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() <= LARGEST_SHIFT_MM)
