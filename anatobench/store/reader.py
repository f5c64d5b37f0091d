"""Prepared cases on disk: what `anatobench prepare` writes and everything else reads.

    STORE/store.json                 format version, task, size, geometry, data set and how it was listed
    STORE/index.json                 a line with the checksum of the others, then every case's record, sorted by case id
    STORE/cases/<case_id>.safetensors  voxels (see case_file.py)
    STORE/cases/<case_id>.json       the case's record; its presence means that the case is done
    STORE/rejected.csv               cases that could not be used, and why
    STORE/rejected/<case_id>.json    the same, one by one

Everything is written atomically by writer.py; this module only reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.case import SAFE_CASE_ID, SPLITS, PatientLeakageError, check_patient_leakage, content_leakage
from anatobench.errors import AnatoBenchError
from anatobench.store.case_file import read_crop
from anatobench.system.json_text import parse_json
from anatobench.tasks import MISSING_TARGET, Geometry, Size, Task

FORMAT_VERSION = 1
STORE_FILE = "store.json"
INDEX_FILE = "index.json"
REJECTED_FILE = "rejected.csv"
CASES_FOLDER = "cases"
REJECTED_FOLDER = "rejected"

CHECKSUMS_VARIABLE = "ANATOBENCH_CASE_CHECKSUMS"
"""`off`: a case's file is not compared with its checksum when a process first reads from it; `on` or unset: it is."""

_sound: set[tuple[Path, str]] = set()
"""Files, with their checksums, that this process has compared: each once."""
_PREPARE_AGAIN = "run `anatobench prepare` again with the same arguments: it does only what is missing"


@dataclass(frozen=True)
class StoredCase:
    """The record of one prepared case."""

    case_id: str
    patient_id: str
    split: str
    targets: tuple[int, ...]
    """Grade per label group of the task; `MISSING_TARGET` where unknown."""
    has_mask: bool
    affine: tuple[tuple[float, ...], ...]
    """[4, 4], voxel index (d, h, w, 1) of the stored volume to RAS+ millimetres."""
    source: str
    """The scan, relative to the raw data's folder, or its whole path where it lies elsewhere."""
    mask_source: str | None
    """The mask, relative to the raw data's (or masks') folder."""
    checksum: str
    """BLAKE2b (32 bytes, hexadecimal) of the data file."""
    byte_size: int
    """Size of the data file."""
    mask_checksum: str | None = None
    """BLAKE2b of the mask file, which may lie anywhere; None without a mask, or in a store older than this field."""
    reading: str | None = None
    """Digest of what was read otherwise than the files themselves say: the mask's label map, the metadata put in place
    of the scan's header. None in a store older than this field."""
    volume_checksum: str | None = None
    """Digest of the scan's voxels as they were read: equal for one scan under two names or with two headers. None for a
    blank scan, or in a store older than this field."""
    slice_digests: tuple[str, ...] = ()
    """Digests of some of its slices, chosen by content: two scans that share several are one, cut differently."""
    notes: tuple[str, ...] = ()
    annotated: tuple[int, ...] | None = None
    """1 or 0 for each of the task's `mask_classes`: whether the mask says where it is, and where it is not. None: all
    of them are, if there is a mask, as in a store older than this field."""
    weight: float = 1.0
    """What its classification loss is multiplied by in training."""

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain JSON types."""
        data = asdict(self)
        if self.annotated is None:
            del data["annotated"]
        if self.weight == 1.0:
            del data["weight"]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> StoredCase:
        """Return the inverse of `to_json`; ValueError, KeyError or TypeError if it is not a record."""
        if data.keys() | _LATER_FIELDS != _RECORD_FIELDS:
            raise ValueError("fields are missing or unknown")
        annotated = data.get("annotated")
        if annotated is not None and any(value not in (0, 1) for value in annotated):
            raise ValueError(f"annotated {annotated!r:.80} holds others than 0 and 1")
        weight = float(data.get("weight", 1.0))
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight {weight} is no number above 0")
        if not SAFE_CASE_ID.fullmatch(data["case_id"]) or data["split"] not in SPLITS:
            raise ValueError(f"case id {data['case_id']!r} or split {data['split']!r} is not allowed")
        return StoredCase(
            case_id=data["case_id"],
            patient_id=str(data["patient_id"]),
            split=data["split"],
            targets=tuple(int(grade) for grade in data["targets"]),
            has_mask=bool(data["has_mask"]),
            affine=tuple(tuple(float(x) for x in row) for row in data["affine"]),
            source=str(data["source"]),
            mask_source=None if data["mask_source"] is None else str(data["mask_source"]),
            checksum=str(data["checksum"]),
            byte_size=int(data["byte_size"]),
            mask_checksum=None if data.get("mask_checksum") is None else str(data["mask_checksum"]),
            reading=None if data.get("reading") is None else str(data["reading"]),
            volume_checksum=None if data.get("volume_checksum") is None else str(data["volume_checksum"]),
            slice_digests=tuple(str(digest) for digest in data.get("slice_digests", ())),
            notes=tuple(str(note) for note in data["notes"]),
            annotated=None if annotated is None else tuple(int(value) for value in annotated),
            weight=weight,
        )


_RECORD_FIELDS = {field.name for field in fields(StoredCase)}
_LATER_FIELDS = {"mask_checksum", "reading", "volume_checksum", "slice_digests", "annotated", "weight"}
"""What older stores do not have."""


def data_file(root: Path, case_id: str) -> Path:
    """Return where a case's voxels are."""
    return root / CASES_FOLDER / f"{case_id}.safetensors"


def record_file(root: Path, case_id: str) -> Path:
    """Return where a case's record is."""
    return root / CASES_FOLDER / f"{case_id}.json"


def file_checksum(path: Path) -> str:
    """BLAKE2b of a file's bytes, as records hold it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


@dataclass(frozen=True)
class Store:
    """An opened store. It holds no open file, so it can be sent to other processes."""

    root: Path
    task: Task
    size: str
    """`full` or `tiny`."""
    geometry: Geometry
    """That of the stored volumes: `padded_size` is their shape, `crop_size` what models see."""
    dataset: str
    options: Mapping[str, Any]
    """How the data set was listed: splits, seed, rescale."""
    cases: tuple[StoredCase, ...]
    """Sorted by case id; positions here are the `case_index` of batches."""
    synthetic: bool = False
    """Whether `anatobench phantom` wrote the raw data; a store older than this field does not say."""

    @staticmethod
    def open(path: Path | str) -> Store:
        """Read a store's index and check it against itself and the disk, all but the voxels.

        Raises AnatoBenchError, naming the file and what to do, if it is not a finished store of this format, or if
        its cases do not fit the task or the files; `PatientLeakageError` if one patient or scan stands in two splits.
        """
        _compares_checksums()  # said before hours of work, where it is misspelt
        store = Store.read_index(path)
        for kind, fault in store._index_faults():
            raise kind(fault)
        return store

    @staticmethod
    def read_index(path: Path | str) -> Store:
        """Read a store's index and believe it: for those who want to know all that is wrong with its cases."""
        root = Path(path)
        description = read_description(root)
        if not (root / INDEX_FILE).is_file():
            raise AnatoBenchError(f"{root}: {INDEX_FILE} is missing, preparing was not finished: {_PREPARE_AGAIN}")
        return Store(root, cases=_read_index(root / INDEX_FILE), **description)

    def _index_faults(self) -> Iterator[tuple[type[AnatoBenchError], str]]:
        """Yield what can be said without reading a voxel, and the error that says it: labels that the task does not
        have, an id that two cases have, a data file that is missing or has another size, one patient or scan in two
        splits."""
        seen: set[str] = set()
        for case in self.cases:
            for fault in (
                _repeated(case, seen),
                targets_fault(case.targets, self.task),
                _annotation_fault(case, self.task),
                _size_fault(self.root, case),
            ):
                if fault is not None:
                    yield AnatoBenchError, f"case {case.case_id}: {fault}: {_PREPARE_AGAIN}"
        try:
            check_patient_leakage(self.cases)
        except PatientLeakageError as error:
            yield PatientLeakageError, f"{self.root}: {error}"
        leakage = content_leakage(self.cases)
        if leakage is not None:
            yield PatientLeakageError, f"{self.root}: {leakage}"

    def split(self, name: str) -> list[int]:
        """Positions in `cases` of that split's cases, in the store's order."""
        if name not in SPLITS:
            raise AnatoBenchError(f"split {name!r}: choose one of {', '.join(SPLITS)}")
        return [index for index, case in enumerate(self.cases) if case.split == name]

    @property
    def contents(self) -> str:
        """Say how many cases there are, and of which splits."""
        if not self.cases:
            return f"no case at all ({self.root / REJECTED_FILE} says why, if there were any)"
        counts = {split: len(self.split(split)) for split in SPLITS}
        named = ", ".join(f"{count} {split}" for split, count in counts.items() if count)
        return f"{len(self.cases)} {'case' if len(self.cases) == 1 else 'cases'} ({named})"

    def annotated(self, index: int) -> tuple[int, ...]:
        """1 or 0 for each of the task's `mask_classes`; 0 throughout for a case without mask."""
        case, count = self.cases[index], len(self.task.mask_classes)
        if not case.has_mask:
            return (0,) * count
        return (1,) * count if case.annotated is None else case.annotated

    def annotated_organs(self, index: int) -> tuple[bool, ...]:
        """Whether the mask says of each organ of the task where it is: those of which an annotated class is made."""
        classes = zip(self.task.organ_sets, self.annotated(index), strict=True)
        known = {organ for organs, annotated in classes if annotated for organ in organs}
        return tuple(organ in known for organ in range(1, len(self.task.organs) + 1))

    def read_crop(
        self, index: int, start: Size, size: Size, out: tuple[np.ndarray, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one case's crop: volume int16 [d, h, w] in HU and organs uint8 [d, h, w].

        Organs are `IGNORED_ORGAN` throughout where the case has no mask. `out` gives C-contiguous arrays to fill.
        When this process first reads from a file, the whole of it is compared with its checksum, unless
        `ANATOBENCH_CASE_CHECKSUMS=off`. Raises AnatoBenchError naming the case and its file if that is missing or
        damaged.
        """
        volume, organs = out or (np.empty(size, np.int16), np.empty(size, np.uint8))
        case, compares = self.cases[index], _compares_checksums()
        path = data_file(self.root, case.case_id)
        try:
            read_crop(path, self.geometry.padded_size, start, volume, organs)  # which knows better what is wrong
            if compares and (path, case.checksum) not in _sound:
                _compare(path, case.checksum)
        except (OSError, AnatoBenchError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            raise AnatoBenchError(
                f"case {case.case_id}: cannot read {path}: {reason}: delete {path} and {_PREPARE_AGAIN}"
            ) from None
        return volume, organs

    def verify(self, progress: Callable[[int], object] | None = None) -> list[str]:
        """Check the index, then read every data file whole and compare it with its checksum; a sentence for each fault.

        `progress` is called with the number of bytes read after each file.
        """
        faults = [fault for _, fault in self._index_faults()]
        for case in self.cases:
            path = data_file(self.root, case.case_id)
            try:
                if _size_fault(self.root, case) is None:  # else it is named already
                    _compare(path, case.checksum)
            except AnatoBenchError as error:
                faults.append(f"case {case.case_id}: {path}: {error}: delete it, {_PREPARE_AGAIN}")
            except OSError as error:
                faults.append(f"case {case.case_id}: {path} cannot be read ({error.strerror}): {_PREPARE_AGAIN}")
            if progress is not None:
                progress(case.byte_size)
        return faults


def targets_fault(targets: tuple[int, ...], task: Task) -> str | None:
    """Return what is wrong with a case's grades: one per label group of the task, unknown or one that the group has;
    None if they are right."""
    grades = [len(group.grades) for group in task.groups]
    fit = len(targets) == len(grades) and all(
        target == MISSING_TARGET or 0 <= target < count for target, count in zip(targets, grades, strict=True)
    )
    return None if fit else f"labels {targets} do not fit the {len(grades)} label groups of {task.name}"


def index_content(cases: list[StoredCase]) -> bytes:
    """Return what `index.json` holds for cases sorted by id: one to a line, under a line with the checksum of these
    lines."""
    lines = ",\n".join(json.dumps(case.to_json()) for case in cases)
    rest = f"{lines}\n]}}\n".encode()
    return f'{{"format_version": {FORMAT_VERSION}, "checksum": "{_checksum(rest)}", "cases": [\n'.encode() + rest


def _read_index(path: Path) -> tuple[StoredCase, ...]:
    """Return the inverse of `index_content`; an older store's index has no checksum."""
    try:
        content = path.read_bytes()
        index = parse_json(content)
        cases = tuple(StoredCase.from_json(entry) for entry in index["cases"])
        if "checksum" in index and index["checksum"] != _checksum(content.partition(b"\n")[2]):
            raise ValueError("it differs from its checksum")
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AnatoBenchError(f"{path}: is damaged ({error}): {_PREPARE_AGAIN}") from None
    return cases


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _compares_checksums() -> bool:
    """Return what `CHECKSUMS_VARIABLE` says; AnatoBenchError if it is neither `on`, as without it, nor `off`."""
    stated = os.environ.get(CHECKSUMS_VARIABLE) or "on"
    if stated not in ("on", "off"):
        raise AnatoBenchError(f"{CHECKSUMS_VARIABLE}={stated}: is neither on nor off: give one of them, or unset it")
    return stated == "on"


def _compare(path: Path, checksum: str) -> None:
    """AnatoBenchError if a file differs from its checksum, OSError if it cannot be read; else it is `_sound`."""
    if file_checksum(path) != checksum:
        raise AnatoBenchError("it differs from its checksum")
    _sound.add((path, checksum))


def _repeated(case: StoredCase, seen: set[str]) -> str | None:
    if case.case_id in seen:
        return f"stands twice in {INDEX_FILE}"
    seen.add(case.case_id)
    return None


def read_description(root: Path) -> dict[str, Any]:
    """Return the fields of `Store` that `store.json` holds; AnatoBenchError if it is missing, damaged or of another
    format."""
    path = root / STORE_FILE
    if not path.is_file():
        raise AnatoBenchError(f"{root}: is not a store ({STORE_FILE} is missing): make one with `anatobench prepare`")
    data = _read_json(path)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise AnatoBenchError(
            f"{path}: has format version {version}, this AnatoBench reads {FORMAT_VERSION}: prepare into a new folder"
        )
    try:
        return {
            "task": Task.from_json(data["task"]),
            "size": str(data["size"]),
            "geometry": Geometry.from_json(data["geometry"]),
            "dataset": str(data["dataset"]),
            "options": dict(data["options"]),
            "synthetic": bool(data.get("synthetic", False)),
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, AnatoBenchError) as error:
        raise AnatoBenchError(f"{path}: is damaged ({error!r}): prepare into a new folder") from None


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise AnatoBenchError(f"{path}: is damaged ({error}): {_PREPARE_AGAIN}") from None


def _annotation_fault(case: StoredCase, task: Task) -> str | None:
    """Return why a record's annotated classes are not the task's."""
    if case.annotated is None or len(case.annotated) == len(task.mask_classes):
        return None
    return f"is annotated for {len(case.annotated)} classes, and the task has {len(task.mask_classes)}"


def _size_fault(root: Path, case: StoredCase) -> str | None:
    path = data_file(root, case.case_id)
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if found == case.byte_size else f"{path} has {found} bytes instead of {case.byte_size}"
