"""Which cohort to write, who is in it, and the pool that writes it.

Patient i depends on the seed and on i alone: a longer cohort starts with the same patients, and any worker may write
any patient. Tables are written last, from the plan, so that a cohort without them is one to be completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.synthetic import MARK
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.phantom import write_ct_rate, write_rad_chestct, write_ratic
from anatobench.phantom.dicom_files import PARTIAL_SUFFIX
from anatobench.phantom.plan import CohortPlan
from anatobench.system.atomic_files import TEMPORARY_SUFFIX, remove_whatever, write_atomically
from anatobench.system.progress import progress_bar
from anatobench.system.worker_pool import WorkerDied, run_in_workers
from anatobench.tasks import Task, get_task


@dataclass(frozen=True)
class CohortFormat:
    """How one data set's format is written."""

    write_patient: Callable[[Path, CohortPlan, int], None]
    """Writes the scans and masks of a patient, except what already stands complete."""
    write_tables: Callable[[Path, CohortPlan], list[tuple[int, ...]]]
    """Writes the CSV files and returns the targets of every scan, in the order of the task's groups."""
    masks_apart: bool = True
    """Whether organ masks lie in a folder of their own, `masks`, for `prepare --masks`; else the data set's listing
    finds them by itself."""


FORMATS: Mapping[str, CohortFormat] = {
    "ratic": CohortFormat(write_ratic.write_patient, write_ratic.write_tables),
    "ct_rate": CohortFormat(write_ct_rate.write_patient, write_ct_rate.write_tables, masks_apart=False),
    "rad_chestct": CohortFormat(write_rad_chestct.write_patient, write_rad_chestct.write_tables),
}


def write_cohort(root: Path, plan: CohortPlan, workers: int = 1) -> dict[str, Any]:
    """Write a cohort, or what is missing of it, and return what it holds.

    Raises `AnatoBenchError` if the folder holds anything but a phantom of the same plan.
    """
    if plan.format not in FORMATS:
        raise UsageError(f"--format {plan.format}: choose one of {', '.join(FORMATS)}")
    _claim(root, plan)
    _write_patients(root, plan, workers)
    targets = FORMATS[plan.format].write_tables(root, plan)
    return {
        "out": str(root),
        **asdict(plan),
        "scans": len(targets),
        "labels": count_labels(get_task(plan.format), targets),
    }


def _claim(root: Path, plan: CohortPlan) -> None:
    mark = root / MARK
    arguments = asdict(plan)
    if not plan.partial:
        del arguments["partial"]  # as it stands in cohorts that are older
    text = json.dumps({"phantom": arguments}, indent=1) + "\n"
    if mark.is_file():
        if mark.read_text() != text:
            raise AnatoBenchError(f"{root} holds a phantom made with other arguments ({mark}): choose another --out")
        return
    if root.exists() and (not root.is_dir() or any(not entry.name.startswith(".") for entry in root.iterdir())):
        raise AnatoBenchError(f"{root} is not empty and no phantom: choose another --out")
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, text.encode())


def _write_patients(root: Path, plan: CohortPlan, workers: int) -> None:
    write = partial(_written, root, plan)
    jobs = run_in_workers(write, range(plan.cases), 0 if workers <= 1 else workers)
    with (
        _leftovers_removed(root),
        closing(jobs),
        progress_bar(plan.cases, f"phantom {plan.format}", "patient", delay=1.0) as progress,
    ):
        for index, error in jobs:
            if isinstance(error, WorkerDied):
                raise AnatoBenchError(f"the process that wrote patient {index} ended with exit code {error.exit_code}")
            if isinstance(error, OSError):
                raise error
            progress.update()


@contextmanager
def _leftovers_removed(root: Path) -> Iterator[None]:
    """Left by an exception, when the workers were stopped in the middle, what they had half written is removed."""
    try:
        yield
    except BaseException:
        for path in [*root.rglob(f".*{PARTIAL_SUFFIX}"), *root.rglob(f".*{TEMPORARY_SUFFIX}")]:
            with suppress(OSError):  # what went wrong first counts
                remove_whatever(path)
        raise


def _written(root: Path, plan: CohortPlan, index: int) -> OSError | None:
    """Write one patient, in a worker; what the disk says against it."""
    try:
        FORMATS[plan.format].write_patient(root, plan, index)
    except OSError as error:
        error.filename = error.filename or str(root)  # a full disk is reported without a name
        return error
    return None


def count_labels(task: Task, targets: list[tuple[int, ...]]) -> dict[str, dict[str, int]]:
    """Return how many scans have each grade of each group."""
    grades = np.array(targets, dtype=int).reshape(len(targets), len(task.groups))
    return {
        group.name: {grade: int((grades[:, column] == value).sum()) for value, grade in enumerate(group.grades)}
        for column, group in enumerate(task.groups)
    }
