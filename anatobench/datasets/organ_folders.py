"""Scans with one mask file per organ and no diagnosis: TotalSegmentator's data set and AbdomenAtlas.

<case>/ct.nii.gz
<case>/segmentations/<organ>.nii.gz    0 and 1; an organ without a file is not annotated
meta.csv                               TotalSegmentator alone: image_id;...;split;... with train, val and test

The task gives the organs that are wanted and the grid; each of its labels counts as not known.
"""

from __future__ import annotations

from pathlib import Path

from anatobench.datasets.annotation import annotated_note, classes_of_structures
from anatobench.datasets.case import SAFE_CASE_ID, Case, Listing, Rejection
from anatobench.datasets.mask_files import mask_note
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.splits import carve_validation
from anatobench.datasets.table import read_table
from anatobench.errors import AnatoBenchError, CaseError, UsageError
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
        try:
            cases.append(_case(folder, task, splits))
        except CaseError as error:
            rejected.append(Rejection(folder.name, str(folder), error.reason, str(error)))
    if not cases and not rejected:
        raise AnatoBenchError(f"{root}: has no folder <case>/{SCAN}: give the folder that holds the cases' folders")
    for name in sorted((splits or {}).keys() - {case.case_id for case in cases} - {one.case_id for one in rejected}):
        message = f"{root / TABLE} lists {name}, and there is no folder of that name: copy it here, or take its row out"
        rejected.append(Rejection(name, str(root / name), "missing-scan", message))
    if options.validation_fraction and any(case.split == "validation" for case in cases):
        raise UsageError(f"{root / TABLE} has a validation split already: drop the validation fraction")
    cases = carve_validation(cases, options.validation_fraction, options.seed)
    return Listing(task, tuple(cases), tuple(rejected), _notes(task, cases))


def _case(folder: Path, task: Task, splits: dict[str, str] | None) -> Case:
    """Return the case of a folder; `CaseError` if it is none."""
    _check(folder, splits)
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


def _check(folder: Path, splits: dict[str, str] | None) -> None:
    if not SAFE_CASE_ID.fullmatch(folder.name):
        raise CaseError("bad-id", f"{folder.name!r}: start with a letter or digit, go on with those, '.', '_', '-'")
    if not (folder / SCAN).is_file():
        raise CaseError("missing-scan", f"{folder / SCAN} is missing")
    if splits is not None and splits.get(folder.name) not in SPLITS:
        raise CaseError("bad-split", f"{TABLE} says split {splits.get(folder.name)!r}, none of {', '.join(SPLITS)}")


def _splits(path: Path) -> dict[str, str] | None:
    """Return each case's split as TotalSegmentator's table has it; None without the table. `AnatoBenchError` for a case
    that stands in it twice: of two splits one would leak."""
    if not path.is_file():
        return None
    table = read_table(path, ("image_id", "split"), "TotalSegmentator's data set brings it", separator=";")
    rows, repeated = table.by_id("image_id")
    for name, lines in repeated.items():
        raise AnatoBenchError(f"{path}: {name} stands in lines {', '.join(map(str, lines))}: leave one of them")
    return {name: row["split"] for name, row in rows.items()}


def _notes(task: Task, cases: list[Case]) -> tuple[str, str]:
    return mask_note(sum(case.mask is not None for case in cases), len(cases)), annotated_note(task, cases)
