"""A raw data set as a list of cases, whatever its format on disk."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.tasks import Task
from anatobench.volumes.volume import HeaderOverride

SPLITS = ("train", "validation", "test")
SAFE_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Case ids become file names in the store, so nothing that could leave the folder or hide in it."""
SHARED_SLICES = 3
"""So many digests of slices in common are no chance: no two slices that were measured are alike."""


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
    """A NIfTI file, or a folder with one file per organ (volumes/organ_folder.py)."""
    mask_labels: str = "auto"
    """Which label map the mask uses: `totalsegmentator_v2`, `totalsegmentator_v1`, `ratic`, `auto`, or the
    template of its source (volumes/mask_templates.py)."""
    header: HeaderOverride | None = None
    rescale: str = "auto"
    """`hu` where a person says that the scan is in HU whatever its voxels look like; see `ListingOptions`."""
    annotated: tuple[str, ...] | None = None
    """Names of the task's `mask_classes` that the mask annotates; None: all of them, if there is a mask."""
    member: str | None = None
    """Which volume of `scan`, where one file holds many (volumes/medmnist3d_npz.py): it is taken as it is, no HU."""
    weight: float = 1.0
    """What its classification loss is multiplied by in training."""


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


def rejection_table(rejections: Iterable[Rejection]) -> bytes:
    """Return the content of a `rejected.csv`: RFC 4180, sorted, with messages on one line each."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("case_id", "path", "reason", "message"))
    for rejection in sorted(rejections, key=lambda r: (r.case_id, r.path, r.reason, r.message)):
        writer.writerow(" ".join(value.split()) for value in asdict(rejection).values())
    return text.getvalue().encode(errors="backslashreplace")


def case_id_of_path(path: str) -> str:
    """Return a case id from a scan's path: its parts joined, without the suffix."""
    text = path.strip("/")
    for suffix in (".nii.gz", ".nii", ".npz"):
        if text.lower().endswith(suffix):
            text = text[: -len(suffix)]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-200:].lstrip("._-")


class PatientLeakageError(AnatoBenchError):
    """The same patient stands in more than one split."""


def check_patient_leakage(cases: Iterable[Any]) -> None:
    """Raise `PatientLeakageError` if a patient's scans stand in more than one split.

    `cases` have `patient_id` and `split` (`Case`, `StoredCase`).
    """
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


def check_scan_leakage(cases: Iterable[Case]) -> None:
    """Raise `PatientLeakageError` if one file or folder, under whatever names and links, stands in two splits."""
    first: dict[tuple[int, int, str | None], Case] = {}
    for case in cases:
        try:
            status = case.scan.stat()
        except OSError:  # its reader says why
            continue
        other = first.setdefault((status.st_dev, status.st_ino, case.member), case)
        if other.split != case.split:
            raise PatientLeakageError(_same_scan(other.case_id, other.split, case.case_id, case.split))


def content_leakage(records: Collection[Any]) -> str | None:
    """Return a sentence if two prepared cases of different splits hold the same voxels, else None.

    `records` have `case_id`, `split`, `volume_checksum` and `slice_digests` (`StoredCase`).
    """
    first: dict[str, Any] = {}
    for record in records:
        if record.volume_checksum is None:
            continue
        other = first.setdefault(record.volume_checksum, record)
        if other.split != record.split:
            return _leaking(other, record)
    return _shared_slices(records)


def _shared_slices(records: Collection[Any]) -> str | None:
    """Return the same sentence for two that have as many slices in common as one scan has that was cut in two ways."""
    seen: dict[str, dict[str, Any]] = {}
    """By digest the first record of each split that has it."""
    for record in records:
        shared: Counter[str] = Counter()
        named: dict[str, Any] = {}
        for digest in record.slice_digests:
            for split, other in seen.setdefault(digest, {}).items():
                if split != record.split:
                    shared[other.case_id] += 1
                    named[other.case_id] = other
            seen[digest].setdefault(record.split, record)
        if shared and shared.most_common(1)[0][1] >= SHARED_SLICES:
            return _leaking(named[shared.most_common(1)[0][0]], record)
    return None


def _leaking(one: Any, other: Any) -> str:
    same = _same_scan(one.case_id, one.split, other.case_id, other.split)
    return f"{same}, delete the other's files in the store's folder cases, and prepare again"


def _same_scan(case_id: str, split: str, other_id: str, other_split: str) -> str:
    return (
        f"cases {case_id} in {split} and {other_id} in {other_split} are the same scan, so what is tested would be "
        "known from training: keep one of them"
    )


def similar_patients_note(cases: Iterable[Case]) -> str | None:
    """Return a sentence on patients of different splits whose ids differ in letter case, width, spaces, dashes, leading
    zeros or `.0` alone: a table that went through a spreadsheet makes two people of one. None if there are none."""
    by_form: dict[str, dict[str, str]] = defaultdict(dict)
    for case in cases:
        plain = unicodedata.normalize("NFKC", case.patient_id).casefold()
        plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")  # seen by nobody
        form = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", re.sub(r"\.0+$", "", re.sub(r"[\s_-]+", "", plain)))
        by_form[form][case.patient_id] = case.split
    pairs = [ids for ids in by_form.values() if len(set(ids.values())) > 1]
    if not pairs:
        return None
    shown = " and ".join(f"{patient!r} in {split}" for patient, split in list(pairs[0].items())[:2])
    return (
        f"{len(pairs)} patient id(s) differ in letter case, spaces, - and _, leading zeros or .0 alone across splits, "
        f"such as {shown}: if they are one person, write one id"
    )
