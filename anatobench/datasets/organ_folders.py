"""Scans with one mask file per organ and no diagnosis: TotalSegmentator's data set and AbdomenAtlas.

<case>/ct.nii.gz
<case>/segmentations/<organ>.nii.gz    0 and 1; an organ without a file is not annotated
meta.csv                               TotalSegmentator alone: image_id;...;split;... with train, val and test

The task gives the organs that are wanted and the grid; each of its labels counts as not known.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from anatobench.datasets.annotation import classes_of_structures
from anatobench.datasets.case import SAFE_CASE_ID, Case, Listing, Rejection
from anatobench.datasets.mask_files import mask_note
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.splits import carve_validation
from anatobench.datasets.table import read_table
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.tasks import MISSING_TARGET, TASKS, Task, get_task
from anatobench.volumes.organ_folder import structure_files

SCAN, SEGMENTATIONS, TABLE = "ct.nii.gz", "segmentations", "meta.csv"
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def list_cases(root: Path, options: ListingOptions | None = None) -> Listing:
    """Return a case for every folder in `root` that holds a scan; those without `meta.csv` are training cases."""
    options = options or ListingOptions()
    if options.task is None:
        raise UsageError(f"organ folders need a task, whose organs are wanted: choose one of {', '.join(TASKS)}")
    task = get_task(options.task)
    splits = _splits(root / TABLE)
    cases: list[Case] = []
    rejected: list[Rejection] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        fault = _fault(folder, splits)
        if fault is None:
            cases.append(_case(folder, task, splits))
        else:
            rejected.append(Rejection(folder.name, str(folder), *fault))
    if not cases and not rejected:
        raise AnatoBenchError(f"{root}: has no folder <case>/{SCAN}: give the folder that holds the cases' folders")
    if options.validation_fraction and any(case.split == "validation" for case in cases):
        raise UsageError(f"{root / TABLE} has a validation split already: drop the validation fraction")
    cases = carve_validation(cases, options.validation_fraction, options.seed)
    return Listing(task, tuple(cases), tuple(rejected), (*_notes(task, cases),))


def _case(folder: Path, task: Task, splits: dict[str, str] | None) -> Case:
    segmentations = folder / SEGMENTATIONS
    annotated = classes_of_structures(task, structure_files(segmentations)) if segmentations.is_dir() else ()
    return Case(
        folder.name,
        folder.name,
        folder / SCAN,
        "train" if splits is None else SPLITS[splits[folder.name]],
        (MISSING_TARGET,) * len(task.groups),
        mask=segmentations if annotated else None,
        annotated=annotated or None,
    )


def _fault(folder: Path, splits: dict[str, str] | None) -> tuple[str, str] | None:
    """Return the reason and the sentence, if a folder is no case."""
    if not SAFE_CASE_ID.fullmatch(folder.name):
        return "bad-id", f"{folder.name!r}: start with a letter or digit, go on with those, '.', '_', '-'"
    if not (folder / SCAN).is_file():
        return "missing-scan", f"{folder / SCAN} is missing"
    if splits is not None and splits.get(folder.name) not in SPLITS:
        return "bad-split", f"{TABLE} says split {splits.get(folder.name)!r}, none of {', '.join(SPLITS)}"
    return None


def _splits(path: Path) -> dict[str, str] | None:
    """Return each case's split as TotalSegmentator's table has it; None without the table."""
    if not path.is_file():
        return None
    table = read_table(path, ("image_id", "split"), "TotalSegmentator's data set brings it", separator=";")
    return {row["image_id"]: row["split"] for row in table.rows}


def _notes(task: Task, cases: list[Case]) -> list[str]:
    counts = Counter(name for case in cases for name in case.annotated or ())
    annotated = ", ".join(f"{one.name} in {counts[one.name]}" for one in task.mask_classes)
    return [mask_note(sum(case.mask is not None for case in cases), len(cases)), f"annotated: {annotated}"]
