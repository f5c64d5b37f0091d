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

SUFFIXES = (".nii.gz", ".nii")
"""Capitals count as small letters, in names as well."""
OTHER_NAMES: Mapping[str, str] = {
    "gall_bladder": "gallbladder",
    "postcava": "inferior_vena_cava",
    "intestine": "small_bowel",
    "bladder": "urinary_bladder",
}
"""AbdomenAtlas's names of structures that TotalSegmentator calls otherwise."""
LARGEST_SHIFT_MM = 0.01
"""Between the files of one folder: they are written on one grid."""
LARGEST_OVERLAP = 0.25
"""Of two organs, as a share of the smaller: more than a common border."""


def structure_files(folder: Path) -> dict[str, Path]:
    """Return the file of each structure in the folder, by TotalSegmentator's names, sorted; `CaseError`
    (`duplicate-organ`) if a structure has two."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)
        if suffix is None or name.startswith("."):
            continue
        stem = name.removesuffix(suffix)
        other = found.setdefault(OTHER_NAMES.get(stem, stem), path)
        if other != path:
            raise CaseError("duplicate-organ", f"{path}: is of the same organ as {other.name} beside it: leave one")
    return found


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
    `mask-off-grid` for files of different grids, `overlapping-organs` for two organs in one place, `duplicate-organ` as
    `structure_files`.
    """
    files = files_of_task(folder, task)
    if not files:
        raise CaseError("empty-mask", f"{folder}: has no file of {', '.join(task.organs)}: it belongs to another task")
    together: Mask | None = None
    for label, (name, path) in enumerate(files.items(), start=1):
        mask = read_mask(path)
        if mask.labels.max(initial=0) > 1:
            raise CaseError(
                "not-binary", f"{path}: has labels up to {mask.labels.max()}, and an organ's file is 0 and 1 alone"
            )
        if together is None:
            together = Mask(np.zeros(mask.labels.shape, np.uint8), mask.affine, names=_numbered(files))
        elif not _same_grid(mask, together):
            raise CaseError("mask-off-grid", f"{path}: lies on another grid than the organs beside it")
        inside = mask.labels == 1
        _check_overlap(together, inside, path, _organs(name, task), task)
        together.labels[inside] = label
    assert together is not None
    return together


def _organs(structure: str, task: Task) -> set[str]:
    """Return the organs that a structure may count as."""
    around = {structure, *WITHIN.get(structure, ())}
    return {organ for organ in task.organs if around.intersection((organ, *STRUCTURES.get(organ, ())))}


def _check_overlap(before: Mask, inside: np.ndarray, path: Path, organs: set[str], task: Task) -> None:
    """Raise `CaseError` if a file lies where another organ's does: one of them would lose its voxels."""
    covered, size = np.bincount(before.labels[inside], minlength=256), int(inside.sum())
    for label in np.flatnonzero(covered[1:]) + 1:
        name = (before.names or {})[int(label)]
        smaller = min(size, int((before.labels == label).sum()))
        if not organs & _organs(name, task) and covered[label] > LARGEST_OVERLAP * smaller:
            raise CaseError(
                "overlapping-organs",
                f"{path}: {covered[label]} of its voxels are {name}'s, too: one of the two files is not what it is "
                "called: mend it, or take it out",
            )


def _numbered(names: Iterable[str]) -> dict[int, str]:
    return dict(enumerate(names, start=1))


def _same_grid(one: Mask, other: Mask) -> bool:
    if one.labels.shape != other.labels.shape:
        return False
    corners = np.array(np.meshgrid(*([0, n - 1] for n in one.labels.shape), [1], indexing="ij")).reshape(4, -1)
    return bool(np.abs((one.affine - other.affine) @ corners).max() <= LARGEST_SHIFT_MM)
