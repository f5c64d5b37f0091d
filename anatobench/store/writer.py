"""Writes a store: one case at a time, from many processes and shards at once, killed at any moment.

A case's data file is written first and its record last, each atomically, so a record means a finished case. The index
and the list of rejected cases are merged from all that is there, by whoever finishes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

import anatobench
from anatobench.datasets.case import Rejection, check_patient_leakage, content_leakage, rejection_table
from anatobench.errors import AnatoBenchError
from anatobench.store.case_file import encode_case
from anatobench.store.reader import (
    CASES_FOLDER,
    FORMAT_VERSION,
    INDEX_FILE,
    REJECTED_FILE,
    REJECTED_FOLDER,
    STORE_FILE,
    StoredCase,
    data_file,
    index_content,
    record_file,
)
from anatobench.system.atomic_files import TEMPORARY_SUFFIX, write_atomically
from anatobench.system.folder_lock import folder_locked
from anatobench.system.json_text import parse_json
from anatobench.tasks import STORED_HU, Task

DIGEST_POINTS = 16
"""Per axis."""
SLICE_DIGESTS = 16
"""Of so many slices: of two scans of which one is half of the other, about 8 are the same."""
MOST_SHOWN = 200
"""Characters of an argument as it was and as it is that a message shows."""
_NO_ARGUMENTS = ("anatobench_version", "synthetic")
"""What a store says of itself that no argument asks for; older ones do not say whether they are synthetic."""
_LEFTOVER = re.compile(r"\.(?P<case_id>.+)\.(safetensors|json)\.[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class PreparedCase:
    """One case's voxels, resampled and padded or cropped to the store's geometry."""

    volume: np.ndarray
    """int16 [D, H, W], HU in [-1000, 1000]."""
    organs: np.ndarray | None
    """uint8 [D, H, W], organ indices of the task; None without a mask."""
    affine: np.ndarray
    """float64 [4, 4], voxel index (d, h, w, 1) to RAS+ millimetres."""
    mask_checksum: str | None = None
    """`file_checksum` of the mask file that `organs` came from."""
    scan_digest: str | None = None
    """`scan_digest` of the scan as it was read; None stands for that of `volume`."""
    slice_digests: tuple[str, ...] = ()
    """`slice_digests` of the scan as it was read."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseOrigin:
    """What a record takes from the raw data's listing."""

    case_id: str
    patient_id: str
    split: str
    targets: tuple[int, ...]
    source: str
    mask_source: str | None
    reading: str | None = None
    annotated: tuple[int, ...] | None = None
    weight: float = 1.0

    def has_same_sources(self, record: StoredCase) -> bool:
        """Return whether the record's data file came from a scan and a mask of the same names, read in the same way."""
        return all(getattr(record, name) == getattr(self, name) for name in ("source", "mask_source", "reading"))

    def relabelled(self, record: StoredCase) -> StoredCase:
        """Return the record with this listing's patient, split, targets, annotated classes and weight."""
        taken = ("patient_id", "split", "targets", "annotated", "weight")
        return replace(record, **{name: getattr(self, name) for name in taken})


class StoreWriter:
    """Writes into one store's folder. It holds no open file, so it can be sent to other processes."""

    def __init__(self, root: Path):
        self.root = root
        self.leakage: str | None = None
        """What the last `finish` found: a sentence on one scan that stands in two splits under two names."""

    def create(self, task: Task, size: str, dataset: str, options: Mapping[str, Any], synthetic: bool = False) -> None:
        """Make the store's folder, or go on with the one that is there.

        `synthetic`: the raw data is no patient's. Raises AnatoBenchError if the folder holds a store made with other
        arguments, or something else.
        """
        description: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "anatobench_version": anatobench.__version__,
            "dataset": dataset,
            "task": task.to_json(),
            "size": size,
            "options": dict(options),
            "geometry": asdict(task.geometry(size)),
            "synthetic": synthetic,
        }
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / STORE_FILE
        with folder_locked(self.root):
            if path.exists():
                _check_same_arguments(path, json.loads(json.dumps(description)))
            elif any(not entry.name.startswith(".") for entry in self.root.iterdir()):
                raise AnatoBenchError(f"{self.root}: holds other files than a store's: choose an empty or new folder")
            else:
                write_atomically(path, json.dumps(description, indent=1).encode() + b"\n")
        (self.root / CASES_FOLDER).mkdir(exist_ok=True)
        (self.root / REJECTED_FOLDER).mkdir(exist_ok=True)

    def remove_leftovers(self, case_ids: Collection[str]) -> None:
        """Remove the temporary files that killed writers of these cases left behind."""
        for folder in (self.root / CASES_FOLDER, self.root / REJECTED_FOLDER):
            for entry in os.scandir(folder):
                leftover = _LEFTOVER.fullmatch(entry.name)
                if leftover and leftover["case_id"] in case_ids:
                    Path(entry.path).unlink(missing_ok=True)

    def finished(self, case_id: str) -> StoredCase | None:
        """Return the case's record if it and its data file are whole (by size), else None."""
        try:
            record = StoredCase.from_json(parse_json(record_file(self.root, case_id).read_bytes()))
            size = data_file(self.root, case_id).stat().st_size
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None
        return record if record.case_id == case_id and record.byte_size == size else None

    def write(self, origin: CaseOrigin, prepared: PreparedCase) -> StoredCase:
        """Write one case: data file, then record. OSError if the disk refuses."""
        content = encode_case(prepared.volume, prepared.organs)
        record = StoredCase(
            **asdict(origin),
            has_mask=prepared.organs is not None,
            affine=tuple(tuple(float(x) for x in row) for row in prepared.affine),
            checksum=hashlib.blake2b(content, digest_size=32).hexdigest(),
            byte_size=len(content),
            mask_checksum=prepared.mask_checksum,
            volume_checksum=prepared.scan_digest or scan_digest(prepared.volume),
            slice_digests=prepared.slice_digests,
            notes=prepared.notes,
        )
        write_atomically(data_file(self.root, origin.case_id), content)
        self.write_record(record)
        self._rejection_file(origin.case_id).unlink(missing_ok=True)
        return record

    def write_record(self, record: StoredCase) -> None:
        """Write or replace a case's record alone."""
        write_atomically(record_file(self.root, record.case_id), json.dumps(record.to_json()).encode() + b"\n")

    def discard(self, case_id: str) -> None:
        """Remove a case's record, then its data file, if there are any."""
        record_file(self.root, case_id).unlink(missing_ok=True)
        data_file(self.root, case_id).unlink(missing_ok=True)

    def reject(self, rejection: Rejection) -> None:
        """Record that a case cannot be used. A rejection is forgotten once the case is written."""
        write_atomically(self._rejection_file(rejection.case_id), json.dumps(asdict(rejection)).encode() + b"\n")

    def finish(self, listed_rejections: Iterable[Rejection] = ()) -> int:
        """Merge all records into the index and all rejections into `rejected.csv`; the number of cases.

        `listed_rejections` are those that the listing of the raw data found. Safe to call from several shards at
        once: each merges again until what it wrote is what is there, so whoever comes last has everything.
        Raises AnatoBenchError for a damaged record and PatientLeakageError if a patient stands in two splits;
        what it finds of a scan in two splits is in `leakage`.
        """
        with folder_locked(self.root) as locked:
            if locked:  # then no other shard's temporary file can be alive
                for leftover in self.root.glob(f".*{TEMPORARY_SUFFIX}"):
                    leftover.unlink(missing_ok=True)
            names = self._present()
            while True:
                self._merge(*names, listed_rejections)
                now = self._present()
                if now == names:
                    return len(names[0])
                names = now

    def _present(self) -> tuple[list[str], list[str]]:
        """Ids of the cases that have a record, and of those that have a rejection and no record; both sorted."""
        prepared, rejected = (
            {e.name.removesuffix(".json") for e in os.scandir(self.root / folder) if _is_record(e.name)}
            for folder in (CASES_FOLDER, REJECTED_FOLDER)
        )
        return sorted(prepared), sorted(rejected - prepared)

    def _merge(self, prepared: list[str], rejected: list[str], listed: Iterable[Rejection]) -> None:
        found = (self._read(record_file(self.root, case_id), StoredCase.from_json) for case_id in prepared)
        records = [record for record in found if record is not None]
        check_patient_leakage(records)
        self.leakage = content_leakage(records)
        write_atomically(self.root / INDEX_FILE, index_content(records))
        rejections = {self._read(self._rejection_file(i), lambda data: Rejection(**data)) for i in rejected} - {None}
        rejections.update(listed)
        write_atomically(self.root / REJECTED_FILE, rejection_table(rejections))

    def _read(self, path: Path, from_json: Any) -> Any:
        """Return None if the file is gone: another shard does its case again, and will merge it."""
        try:
            return from_json(parse_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise AnatoBenchError(
                f"{path}: is damaged ({error}): delete it and run `anatobench prepare` again"
            ) from None

    def _rejection_file(self, case_id: str) -> Path:
        return self.root / REJECTED_FOLDER / f"{case_id}.json"


def scan_digest(voxels: np.ndarray) -> str | None:
    """Equal for int16 voxels [D, H, W] of one scan, whatever the header of either file says of spacing, place and
    direction of the axes; None if they are blank.

    Of about 4,000 voxels that lie alike from both ends of each axis: the first of the digests of all directions.
    """
    chosen = [np.linspace(0, n - 1, DIGEST_POINTS).round().astype(int) for n in voxels.shape]
    both_ways = [np.union1d(indices, n - 1 - indices) for indices, n in zip(chosen, voxels.shape, strict=True)]
    values = np.clip(voxels[np.ix_(*both_ways)], *STORED_HU).astype("<i2")
    if values.min() == values.max():
        return None
    digests = []
    for order in permutations(range(3)):
        for steps in product((1, -1), repeat=3):
            turned = values.transpose(order)[:: steps[0], :: steps[1], :: steps[2]]
            size = repr([voxels.shape[axis] for axis in order]).encode()
            digests.append(hashlib.blake2b(size + turned.tobytes(), digest_size=16).hexdigest())
    return min(digests)


def slice_digests(voxels: np.ndarray) -> tuple[str, ...]:
    """Return, of the slices along the body of int16 voxels [D, H, W] a digest each, of which the `SLICE_DIGESTS`
    smallest are kept: two scans that have most slices in common have most of these in common, wherever either was cut.

    Blank slices have none.
    """
    rows, columns = (np.linspace(0, n - 1, count).round().astype(int) for n, count in
                     zip(voxels.shape[1:], (DIGEST_POINTS, 2 * DIGEST_POINTS), strict=True))  # fmt: skip
    values = np.clip(voxels[:, rows[:, None], columns], *STORED_HU).astype("<i2")
    measured = values[(values != values[:, :1, :1]).any(axis=(1, 2))]
    found = {hashlib.blake2b(plane.tobytes(), digest_size=8).hexdigest() for plane in measured}
    return tuple(sorted(found)[:SLICE_DIGESTS])


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _other(name: str, found: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which parts of a long argument differ."""
    if not isinstance(found.get(name), Mapping):
        return f"another {name}"
    parts = sorted(part for part in {**now[name], **found[name]} if found[name].get(part) != now[name].get(part))
    changes = [_change(part, found[name].get(part), now[name].get(part)) for part in parts]
    told = ", ".join(change or part for part, change in zip(parts, changes, strict=True))
    return f"{name} {told}" if all(changes) else f"another {name} ({told})"


def _change(name: str, found: Any, now: Any) -> str | None:
    """Say what an argument was and is; None where that is too long to be read."""
    before, after = ("nothing" if value is None else json.dumps(value) for value in (found, now))
    return f"{name} {before}, not {after}" if len(before) + len(after) < MOST_SHOWN else None


def _check_same_arguments(path: Path, description: dict[str, Any]) -> None:
    """Compare `store.json` with what this call would write, leaving out the version that wrote it."""
    try:
        found = dict(parse_json(path.read_bytes()))
    except (ValueError, TypeError, OSError) as error:
        raise AnatoBenchError(f"{path}: is damaged ({error}): prepare into a new folder") from None
    for name in description:
        if name not in _NO_ARGUMENTS and found.get(name) != description[name]:
            change = _change(name, found.get(name), description[name]) or _other(name, found, description)
            raise AnatoBenchError(
                f"{path.parent}: was prepared with {change}: give the same arguments or choose a new folder"
            )
