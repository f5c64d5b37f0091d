"""Which cohort to write, who is in it, and the pool that writes it.

Patient i depends on the seed and on i alone: a longer cohort starts with the same patients, and any worker may write
any patient. Tables are written last, from the plan, so that a cohort without them is one to be completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.synthetic import MARK
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.phantom import write_ct_rate, write_rad_chestct, write_ratic
from anatobench.phantom.body import Body, Finding
from anatobench.phantom.dicom_files import PARTIAL_SUFFIX
from anatobench.phantom.plan import CohortPlan
from anatobench.phantom.scans import Scan
from anatobench.system.atomic_files import TEMPORARY_SUFFIX, remove_whatever, write_atomically
from anatobench.system.progress import progress_bar
from anatobench.system.worker_pool import WorkerDied, run_in_workers
from anatobench.tasks import Task, get_task


@dataclass(frozen=True)
class CohortFormat:
    """How one data set's format is written."""

    scans_of: Callable[[CohortPlan, int], list[Scan]]
    """The scans of a patient."""
    draw_patient: Callable[[CohortPlan, Scan], tuple[Body, tuple[Finding, ...]]]
    write_scan: Callable[[Path, CohortPlan, Scan, Body, tuple[Finding, ...]], None]
    """Writes a scan with its mask."""
    write_tables: Callable[[Path, CohortPlan, Sequence[Scan]], None]
    """Writes the CSV files about all scans."""
    masks_apart: bool
    """Whether organ masks lie in a folder of their own, `masks`, for `prepare --masks`; else the data set's listing
    finds them by itself."""


FORMATS: Mapping[str, CohortFormat] = {
    name: CohortFormat(module.scans_of, module.draw_patient, module.write_scan, module.write_tables, masks_apart)
    for name, module, masks_apart in (
        ("ratic", write_ratic, True),
        ("ct_rate", write_ct_rate, False),
        ("rad_chestct", write_rad_chestct, True),
    )
}


def write_cohort(root: Path, plan: CohortPlan, workers: int = 1) -> dict[str, Any]:
    """Write a cohort, or what is missing of it, and return what it holds.

    Raises `AnatoBenchError` if the folder holds anything but a phantom of the same plan.
    """
    if plan.format not in FORMATS:
        raise UsageError(f"--format {plan.format}: choose one of {', '.join(FORMATS)}")
    _claim(root, plan)
    _write_patients(root, plan, workers)
    scans = [scan for index in range(plan.cases) for scan in FORMATS[plan.format].scans_of(plan, index)]
    FORMATS[plan.format].write_tables(root, plan, scans)
    return {
        "out": str(root),
        **asdict(plan),
        "scans": len(scans),
        "labels": count_labels(get_task(plan.format), scans),
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
    jobs = run_in_workers(partial(_written, root, plan), range(plan.cases), 0 if workers <= 1 else workers)
    bar = progress_bar(plan.cases, f"phantom {plan.format}", "patient", delay=1.0)
    try:
        with closing(jobs), bar as progress:
            for index, error in jobs:
                if isinstance(error, WorkerDied):
                    code = error.exit_code
                    raise AnatoBenchError(f"the process that wrote patient {index} ended with exit code {code}")
                if isinstance(error, OSError):
                    raise error
                progress.update()
    except BaseException:  # the workers were stopped in the middle: what they had half written goes
        for path in [*root.rglob(f".*{PARTIAL_SUFFIX}"), *root.rglob(f".*{TEMPORARY_SUFFIX}")]:
            with suppress(OSError):  # what went wrong first counts
                remove_whatever(path)
        raise


def _written(root: Path, plan: CohortPlan, index: int) -> OSError | None:
    """Write the scans of one patient that do not stand yet, in a worker; what the disk says against it."""
    chosen = FORMATS[plan.format]
    try:
        missing = [scan for scan in chosen.scans_of(plan, index) if not (root / scan.path).exists()]
        patient = chosen.draw_patient(plan, missing[0]) if missing else ((), ())
        for scan in missing:
            chosen.write_scan(root, plan, scan, *patient)
    except OSError as error:
        error.filename = error.filename or str(root)  # a full disk is reported without a name
        return error
    return None


def count_labels(task: Task, scans: Sequence[Scan]) -> dict[str, dict[str, int]]:
    """Return how many scans have each grade of each group."""
    grades = np.array([scan.targets for scan in scans])
    return {
        group.name: {grade: int((grades[:, column] == value).sum()) for value, grade in enumerate(group.grades)}
        for column, group in enumerate(task.groups)
    }
