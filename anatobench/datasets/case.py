"""A raw data set as a list of cases, whatever its format on disk."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anatobench.errors import AnatoBenchError
from anatobench.tasks import Task

SPLITS = ("train", "validation", "test")
SAFE_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Case ids become file names in the store, so nothing that could leave the folder or hide in it."""


@dataclass(frozen=True)
class HeaderOverride:
    """What a scan's own header does not say: CT-RATE's original files carry it in a CSV instead."""

    slope: float
    intercept: float
    """HU = slope * stored + intercept."""
    affine: np.ndarray
    """float64 [4, 4]: the file's own voxel axes (i, j, k) to RAS+ millimetres."""


@dataclass(frozen=True)
class Case:
    """One scan with its labels, still raw on disk."""

    case_id: str
    patient_id: str
    scan: Path
    """A NIfTI or NPZ file, or a folder that holds one DICOM series."""
    split: str
    targets: tuple[int, ...]
    """Grade per label group of the task; `MISSING_TARGET` where unknown."""
    mask: Path | None = None
    mask_labels: str = "auto"
    """Which label map the mask uses: `totalsegmentator_v2`, `totalsegmentator_v1`, `ratic` or `auto`."""
    header: HeaderOverride | None = None


@dataclass(frozen=True)
class Rejection:
    """A case that cannot be used, and why: one row of `rejected.csv`."""

    case_id: str
    path: str
    reason: str
    """A short keyword, the same for the same kind of fault."""
    message: str


@dataclass(frozen=True)
class Listing:
    """What a data set's folder holds."""

    task: Task
    cases: tuple[Case, ...]
    rejected: tuple[Rejection, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Sentences for the summary: derived splits, dropped rows, choices made."""


class PatientLeakageError(AnatoBenchError):
    """The same patient stands in more than one split."""


def check_patient_leakage(cases: Iterable[Case]) -> None:
    """Raise `PatientLeakageError` if a patient's scans stand in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        splits[case.patient_id].add(case.split)
    leaked = sorted(patient for patient, found in splits.items() if len(found) > 1)
    if leaked:
        example = leaked[0]
        raise PatientLeakageError(
            f"{len(leaked)} patient(s) stand in more than one split, for example {example} in "
            f"{' and '.join(sorted(splits[example]))}: put all scans of a patient into one split"
        )
