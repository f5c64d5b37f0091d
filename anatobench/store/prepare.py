"""Raw scans and masks -> a store of checked cases, all on one grid.

Every case is one job of one worker process. A case that cannot be used is written down with its reason and never
stops the others; a disk that refuses does. What is finished is never done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.annotation import annotated_classes, annotated_row
from anatobench.datasets.case import SAFE_CASE_ID, SPLITS, Case, Listing, Rejection, check_patient_leakage
from anatobench.datasets.synthetic import is_synthetic
from anatobench.errors import AnatoBenchError, CaseError, UsageError
from anatobench.store.reader import StoredCase, file_checksum, targets_fault
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter, scan_digest, slice_digests
from anatobench.system.atomic_files import disk_errors_named
from anatobench.system.folder_lock import shard_locked
from anatobench.system.progress import progress_bar
from anatobench.system.time_limit import GRACE, reading_seconds, too_slow
from anatobench.system.worker_pool import TimedOut, WorkerDied, run_in_workers
from anatobench.tasks import STORED_HU, Geometry, Task
from anatobench.volumes.coverage import check_mask_coverage, mask_off_organs_note
from anatobench.volumes.mask_fit import check_not_flipped
from anatobench.volumes.organ_folder import files_of_task, read_organ_folder
from anatobench.volumes.organs import AUTO, organ_table, sides_told
from anatobench.volumes.read import read_mask, read_member, read_volume
from anatobench.volumes.resample import padded_or_cropped_grid, resample_mask, resample_volume, resampled_grid
from anatobench.volumes.volume import Grid, Volume

SIZED_CASES = 32
"""So many cases say how large a store is beside its scans."""


@dataclass(frozen=True)
class Summary:
    """What one call of `prepare` did. `to_json` is what `--json` prints."""

    store: str
    prepared: int
    skipped: int
    """Already in the store."""
    relabelled: int
    """Already in the store, but with other labels, split or patient than the raw data has now."""
    rejected: Mapping[str, int]
    """Number of rejected cases by reason, of this call's shard and of the listing."""
    cases_in_store: int
    seconds: float
    cases_per_second: float
    volumes_per_second: float
    """Scans and masks."""
    times_its_scans: float | None = None
    """How many times the bytes of its scans the store takes, by some of the cases; None if there are none."""
    share_of_grid: float | None = None
    """The part of the store's grid that these scans fill; the rest is air and not kept."""
    leakage: str | None = None
    """A sentence if one scan stands in two splits under two names; such a store is not trained on."""
    notes: tuple[str, ...] = ()
    """Of the listing, and what was mended in how many cases."""

    @property
    def passed(self) -> bool:
        """Whether anything was usable, or there was nothing to do, and nothing leaks."""
        if self.leakage is not None:
            return False
        return not self.rejected or self.prepared + self.skipped + self.relabelled > 0

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain JSON types."""
        return {"passed": self.passed, **asdict(self)}


def prepare_case(case: Case, task: Task, size: str) -> PreparedCase:
    """Read one case and bring it onto the task's grid: target spacing, then padded or cropped about its centre.

    HU is clipped to [-1000, 1000]; outside the field of view is air. Organs are resampled to the nearest voxel on
    the same grid. Raises CaseError with a reason if scan or mask cannot be used.
    """
    geometry = task.geometry(size)
    volume = _read(case)
    voxels, grid = on_task_grid(volume, geometry)
    same = _digests(case, volume)
    if case.mask is None:
        return PreparedCase(voxels, None, grid.affine, None, *same, volume.notes)
    checksum = _checksum(case.mask, task)  # before it is read: if it changes meanwhile, it differs next time
    organs = _prepare_mask(case.mask, case.mask_labels, task, volume, grid)
    doubt = mask_off_organs_note(voxels, organs, task.organs)
    return PreparedCase(voxels, organs, grid.affine, checksum, *same, (*volume.notes, *([doubt] if doubt else [])))


def _read(case: Case) -> Volume:
    if case.member is not None:
        return read_member(case.scan, case.member)
    return read_volume(case.scan, case.header, case.rescale)


def _digests(case: Case, volume: Volume) -> tuple[str | None, tuple[str, ...]]:
    """Return what tells one scan in two splits. Volumes of one file were cut by one hand, and many are small and
    simple shapes: of these only wholly equal ones are the same."""
    if case.member is None:
        return scan_digest(volume.voxels), slice_digests(volume.voxels)
    if volume.voxels.min() == volume.voxels.max():
        return None, ()
    return hashlib.blake2b(volume.voxels.tobytes(), digest_size=32).hexdigest(), ()


def on_task_grid(volume: Volume, geometry: Geometry) -> tuple[np.ndarray, Grid]:
    """Return a scan as the store keeps it: int16 [D, H, W] of `geometry.padded_size`, HU clipped, and where it lies."""
    grid = padded_or_cropped_grid(resampled_grid(volume.grid, geometry.spacing), geometry.padded_size)
    return np.clip(resample_volume(volume, grid), *STORED_HU), grid


def _prepare_mask(path: Path, mask_labels: str, task: Task, volume: Volume, grid: Grid) -> np.ndarray:
    """uint8 [D, H, W] of `grid.size`, organ indices of the task."""
    if path.is_dir():  # its files' names say what they are
        mask, mask_labels = read_organ_folder(path, task), AUTO
    else:
        mask = read_mask(path)
    try:
        check_mask_coverage(mask.grid, volume.grid)
        indices = organ_table(mask, task, mask_labels)
        check_not_flipped(mask, volume)
    except CaseError as error:  # these judge arrays and know no path
        raise CaseError(error.reason, f"{path}: {error}") from None
    organs: np.ndarray = indices[resample_mask(mask.labels, mask.affine, grid)]
    return sides_told(organs, grid.spacing, task)


def _checksum(mask: Path, task: Task) -> str | None:
    """Digest the file, or those files in a folder that the task needs. None if it cannot be read; its reader says
    why."""
    try:
        if not mask.is_dir():
            return file_checksum(mask)
        found = [f"{name} {file_checksum(path)}" for name, path in files_of_task(mask, task).items()]
        return hashlib.blake2b("\n".join(found).encode(), digest_size=32).hexdigest()
    except OSError:
        return None


def prepare(
    listing: Listing,
    store_root: Path,
    size: str,
    workers: int,
    shard: tuple[int, int] = (0, 1),
    *,
    dataset: str,
    raw_root: Path,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Summary:
    """Prepare the cases of a listing that are not in the store yet, and merge the store's index.

    `shard` (i, n) does every n-th case from i on, for n jobs at once. `workers` processes work in parallel, 0 stands
    for this process itself. `dataset` and `options` say how the listing was made; a store made with others is
    refused. Record paths are relative to `raw_root`. Can be killed and called again at any time.
    Raises AnatoBenchError if the store cannot be written, was made with other arguments, or another process is doing
    some of the same cases.
    """
    began = time.monotonic()
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"shard {index}/{count}: count shards from 0, so the last of {count} is {count - 1}/{count}")
    check_patient_leakage(listing.cases)
    usable, listed_rejections = _check_listing(listing, raw_root)
    cases = usable[index::count]
    writer = StoreWriter(store_root)
    tally = _Tally()
    with disk_errors_named("prepare"):
        writer.create(listing.task, size, dataset, options or {}, is_synthetic(raw_root))
        with shard_locked(store_root, shard):
            own = {case.case_id for case in cases}
            writer.remove_leftovers(own)
            jobs = list(_jobs(writer, listing.task, size, cases, raw_root, tally, progress))
            try:
                _run_jobs(jobs, workers, tally, progress)
            except BaseException:
                writer.remove_leftovers(own)  # of workers stopped in the middle
                raise
            in_store = writer.finish(listed_rejections)
            times, share = _sizes(writer, cases, listing.task.geometry(size))
    seconds = time.monotonic() - began
    rejected = tally.rejected + Counter(rejection.reason for rejection in listed_rejections)
    return Summary(
        store=str(store_root),
        prepared=tally.prepared,
        skipped=tally.skipped,
        relabelled=tally.relabelled,
        rejected=dict(sorted(rejected.items())),
        cases_in_store=in_store,
        seconds=round(seconds, 3),
        cases_per_second=round(tally.prepared / seconds, 3),
        volumes_per_second=round(tally.volumes / seconds, 3),
        times_its_scans=times,
        share_of_grid=share,
        leakage=writer.leakage,
        notes=(*listing.notes, *tally.mended()),
    )


def _sizes(writer: StoreWriter, cases: list[Case], geometry: Geometry) -> tuple[float | None, float | None]:
    """Return how many times the bytes of their scans, as these lie on the disk, cases take in the store, and what part
    of the grid's bytes: of a few, since a folder of DICOM files has hundreds to look at. Volumes in one file share it
    out."""
    volumes = Counter(case.scan for case in cases)
    scanned, stored, whole = 0.0, 0, 0
    for case in cases[:: max(1, len(cases) // SIZED_CASES)]:
        record, size = writer.finished(case.case_id), _bytes_on_disk(case.scan)
        if record is not None and size:
            scanned += size / volumes[case.scan]
            stored += record.byte_size
            whole += math.prod(geometry.padded_size) * (3 if record.has_mask else 2)
    return (round(stored / scanned, 2), min(round(stored / whole, 4), 1.0)) if scanned else (None, None)


def _bytes_on_disk(scan: Path) -> int:
    """Return the size of a file, or of the files in a folder; 0 if that cannot be told any more."""
    try:
        files = [scan] if scan.is_file() else [path for path in scan.iterdir() if path.is_file()]
        return sum(path.stat().st_size for path in files)
    except OSError:
        return 0


@dataclass
class _Tally:
    prepared: int = 0
    volumes: int = 0
    skipped: int = 0
    relabelled: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    noted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Cases by note."""

    def mended(self) -> list[str]:
        """Return a sentence per note, with how many cases have it; the records in the store have them all."""
        return [
            f"{cases[0]}{f' and {len(cases) - 1} more' if len(cases) > 1 else ''}: {note}"
            for note, cases in sorted(self.noted.items())
        ]


@dataclass(frozen=True)
class _Job:
    """All that a worker needs for one case."""

    writer: StoreWriter
    task: Task
    size: str
    case: Case
    origin: CaseOrigin


def _check_listing(listing: Listing, raw_root: Path) -> tuple[list[Case], list[Rejection]]:
    """Return the listing's cases sorted by id, and its rejections with those of cases whose id or labels cannot be
    stored."""
    usable: dict[str, Case] = {}
    rejections = list(listing.rejected)
    for case in sorted(listing.cases, key=lambda case: (case.case_id, str(case.scan))):
        fault = _listing_fault(case, listing.task)
        if fault is None and case.case_id in usable:
            fault = CaseError("duplicate-id", f"the case id is also that of {usable[case.case_id].scan}: rename one")
        if fault is None:
            usable[case.case_id] = case
        else:
            rejections.append(Rejection(case.case_id, _source(case, raw_root), fault.reason, str(fault)))
    return list(usable.values()), rejections


def _listing_fault(case: Case, task: Task) -> CaseError | None:
    if not SAFE_CASE_ID.fullmatch(case.case_id):
        return CaseError("bad-case-id", "a case id is 1 to 200 letters, digits, '.', '_', '-', first a letter or digit")
    if case.split not in SPLITS:
        return CaseError("bad-split", f"split {case.split!r} is none of {', '.join(SPLITS)}")
    fault = targets_fault(case.targets, task)
    if fault is not None:
        return CaseError("bad-label", fault)
    try:
        annotated_classes(case, task)
    except CaseError as error:
        return error
    return None


def _jobs(
    writer: StoreWriter, task: Task, size: str, cases: list[Case], raw_root: Path, tally: _Tally, progress: bool
) -> Iterable[_Job]:
    """Yield what is still to do. Records of finished cases follow the listing's labels, without reading the scan
    again."""
    for case in progress_bar(len(cases), "compare", "case", iterable=cases, delay=1.0, disable=not progress):
        origin = _origin(case, task, raw_root)
        record = writer.finished(case.case_id)
        if record is None or not origin.has_same_sources(record) or not _has_same_mask(case, task, record):
            yield _Job(writer, task, size, case, origin)
        elif origin.relabelled(record) != record:
            writer.write_record(origin.relabelled(record))
            tally.relabelled += 1
        else:
            tally.skipped += 1


def _has_same_mask(case: Case, task: Task, record: StoredCase) -> bool:
    """By content: masks outside the raw data are known by name alone, and another folder has the same names."""
    if case.mask is None:
        return True
    checksum = _checksum(case.mask, task)
    return checksum is None or checksum == record.mask_checksum  # a mask that is gone since costs no finished case


def _origin(case: Case, task: Task, raw_root: Path) -> CaseOrigin:
    return CaseOrigin(
        case.case_id,
        case.patient_id,
        case.split,
        case.targets,
        source=_source(case, raw_root),
        mask_source=None if case.mask is None else _relative(case.mask, raw_root) or case.mask.name,
        reading=_reading(case),
        annotated=annotated_row(task, annotated_classes(case, task)),
        weight=case.weight,
    )


def _source(case: Case, raw_root: Path) -> str:
    if case.member is not None:
        return f"{case.scan.name}/{case.member}"
    return _relative(case.scan, raw_root) or str(case.scan.absolute())


def _relative(path: Path, raw_root: Path) -> str | None:
    """Relative to the raw data's folder, so that a store does not depend on where that is mounted; None outside it."""
    return path.relative_to(raw_root).as_posix() if path.is_relative_to(raw_root) else None


def _reading(case: Case) -> str:
    """See `StoredCase.reading`."""
    labels = None if case.mask is None else case.mask_labels
    header = None
    if case.header is not None:
        affine = (case.header.affine + 0.0).tolist()  # -0.0, which a machine's own arithmetic may give, becomes 0.0
        header = [case.header.slope, case.header.intercept, affine]
    stated = ["hu"] if case.rescale == "hu" else []
    return hashlib.blake2b(json.dumps([labels, header, *stated]).encode(), digest_size=16).hexdigest()


def _run_jobs(jobs: list[_Job], workers: int, tally: _Tally, progress: bool) -> None:
    with progress_bar(len(jobs), "prepare", "case", disable=not progress) as bar:
        for job, result in run_in_workers(_do, jobs, workers, time_limit=_seconds_for):
            if isinstance(result, WorkerDied):
                result = _died(job, result)
            elif isinstance(result, TimedOut):
                late = too_slow(job.case.scan, result.seconds)
                result = _reject(job, late.reason, str(late))
            if isinstance(result, AnatoBenchError):
                raise result
            if isinstance(result, Rejection):
                tally.rejected[result.reason] += 1
                bar.set_postfix(rejected=tally.rejected.total(), refresh=False)
            else:
                tally.prepared += 1
                for note in result.notes:
                    tally.noted[note].append(result.case_id)
                tally.volumes += 2 if result.has_mask else 1
            bar.update()


def _seconds_for(job: _Job) -> float:
    """Return what a worker may take for a case: its alarm rings before, unless a decoder never lets it."""
    return GRACE * reading_seconds(job.case.scan, job.case.mask)


def _do(job: _Job) -> StoredCase | Rejection | AnatoBenchError:
    """Prepare and write one case, in a worker. A case's own faults are its Rejection, the store's an error to raise."""
    try:
        with disk_errors_named("prepare"):
            job.writer.discard(job.case.case_id)
            try:
                prepared = prepare_case(job.case, job.task, job.size)
            except CaseError as error:
                return _reject(job, error.reason, str(error))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a bug or a fault nobody thought of costs this case alone
                return _reject(job, "internal", f"{type(error).__name__}: {error}")
            return job.writer.write(job.origin, prepared)
    except AnatoBenchError as error:
        return error


def _died(job: _Job, death: WorkerDied) -> Rejection:
    return _reject(
        job,
        "worker-died",
        f"the process that prepared it ended with exit code {death.exit_code}: too little memory, or a damaged file "
        "that crashes its decoder",
    )


def _reject(job: _Job, reason: str, message: str) -> Rejection:
    rejection = Rejection(job.case.case_id, job.origin.source, reason, message)
    job.writer.reject(rejection)
    return rejection
