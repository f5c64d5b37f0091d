"""Masks for the scans that have none, one scan per job, on one grid: the paper's.

A scan that cannot be segmented is written down with its reason and never stops the others; what would fail for every
scan does: a disk that refuses, a segmenter that fails again and again. What is finished is never done again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from anatobench.datasets.case import Rejection
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.masks.folder import MasksFolder
from anatobench.masks.scans import Scan
from anatobench.masks.segmenter import Segmenter
from anatobench.system.atomic_files import disk_errors_named
from anatobench.system.folder_lock import shard_locked
from anatobench.system.progress import progress_bar
from anatobench.system.time_limit import reading_seconds
from anatobench.system.worker_pool import TimedOut, WorkerDied, WorkerPlace, run_in_workers
from anatobench.tasks import Spacing
from anatobench.volumes.read import read_volume
from anatobench.volumes.resample import resample_volume, resampled_grid
from anatobench.volumes.volume import Grid, Volume

SPACING: Spacing = (3.0, 1.5, 1.5)
"""The AutoSeg paper's, also that of the full geometries."""
SEGMENTED_HU = (-1000, 1000)
"""The paper clips to this before segmenting."""
SEGMENTING_SECONDS, SEGMENTING_FACTOR = 3600.0, 20.0
"""Of the time limit of a scan: what any may take, and times what reading it may take."""
FAILURES_IN_A_ROW = 5
"""So many scans without a success between them are not the scans' fault."""


@dataclass(frozen=True)
class Summary:
    """What one call of `make_masks` did. `to_json` is what `--json` prints."""

    masks: str
    scans: int
    """Of this shard."""
    made: int
    already_here: int
    """Scans whose mask lay in the folder before, whoever made it."""
    of_the_data_set: int
    """Scans whose mask the data set brings along: CT-RATE's ts_seg, RATIC's segmentations, a manifest's own."""
    rejected: Mapping[str, int]
    """Number of scans by reason, of this shard and of the listing."""
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether any scan has a mask, or there was nothing to do."""
        return not self.rejected or self.made + self.already_here + self.of_the_data_set > 0

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain JSON types."""
        return {"passed": self.passed, **asdict(self)}


def segment(scan: Scan, volume: Volume, segmenter: Segmenter) -> tuple[np.ndarray, Grid]:
    """Return the labels of a scan that was read, uint8 [D, H, W] on the resampled scan's grid, over its whole field of
    view; `CaseError` if nothing was found in it."""
    grid = resampled_grid(volume.grid, SPACING)
    labels = segmenter.segment(np.clip(resample_volume(volume, grid), *SEGMENTED_HU), grid.affine)
    if labels.shape != grid.size:
        raise CaseError("wrong-size", f"{scan.path}: its labels are {labels.shape}, not {grid.size}")
    if not labels.any():
        raise CaseError("nothing-found", f"{scan.path}: no structure was found: is it a CT scan of a body?")
    return labels, grid


def make_masks(
    scans: Sequence[Scan],
    folder: MasksFolder,
    segmenter: Segmenter,
    places: Sequence[WorkerPlace] = (),
    threads: int = 1,
    shard: tuple[int, int] = (0, 1),
    *,
    listed_rejections: Sequence[Rejection] = (),
    notes: tuple[str, ...] = (),
    progress: bool = True,
) -> Summary:
    """Make the masks that are missing. `places` are the worker processes, none stands for this process itself.

    `shard` (i, n) does every n-th scan from i on, for n jobs at once. Can be killed and called again at any time.
    Raises AnatoBenchError if the folder cannot be written or holds masks that something else made, another process
    does some of the same scans, or the segmenter fails for every scan.
    """
    began = time.monotonic()
    own = scans_of_shard(scans, shard)
    missing = [scan for scan in own if scan.mask is None]
    tally = _Tally(Counter(rejection.reason for rejection in listed_rejections))
    with disk_errors_named("masks"):
        folder.describe({**segmenter.description(), "spacing": list(SPACING), "hu": list(SEGMENTED_HU)})
        with shard_locked(folder.root, shard, "masks"):
            folder.remove_leftovers({scan.case_id for scan in own})
            try:
                _run_jobs([_Job(scan, folder, segmenter) for scan in missing], places, threads, tally, progress)
            finally:
                folder.merge_rejections(listed_rejections)
    return summarise(own, folder, tally.made, tally.rejected, time.monotonic() - began, (*notes, *tally.notes))


def scans_of_shard(scans: Sequence[Scan], shard: tuple[int, int]) -> Sequence[Scan]:
    """Return every n-th scan from i on, whether it has a mask or not: a job that is repeated has the same scans."""
    index, count = shard
    return scans[index::count]


def summarise(
    own: Sequence[Scan],
    folder: MasksFolder,
    made: int,
    rejected: Counter[str],
    seconds: float,
    notes: tuple[str, ...],
) -> Summary:
    """Return the figures of one call over its own scans."""
    here = sum(scan.mask is not None and scan.mask.is_relative_to(folder.root) for scan in own)
    return Summary(
        masks=str(folder.root),
        scans=len(own),
        made=made,
        already_here=here,
        of_the_data_set=sum(scan.mask is not None for scan in own) - here,
        rejected=dict(sorted(rejected.items())),
        seconds=round(seconds, 3),
        notes=notes,
    )


@dataclass
class _Tally:
    rejected: Counter[str]
    made: int = 0
    notes: list[str] = field(default_factory=list)
    """What was mended in which scan."""
    failures: int = 0
    """Of the segmenter, since it last succeeded."""


@dataclass(frozen=True)
class _Job:
    """All that a worker needs for one scan."""

    scan: Scan
    folder: MasksFolder
    segmenter: Segmenter


@dataclass(frozen=True)
class _Failure:
    """The segmenter raised: perhaps because of this scan, perhaps because of the machine."""

    rejection: Rejection


_Result = Rejection | _Failure | AnatoBenchError | tuple[str, ...]
"""The notes of a scan whose mask is made."""


def _run_jobs(jobs: list[_Job], places: Sequence[WorkerPlace], threads: int, tally: _Tally, progress: bool) -> None:
    workers = run_in_workers(_do, jobs, len(places), threads, places or (WorkerPlace(),), _seconds_for)
    # Closed here, not when it is forgotten: at its end Python would wait for workers that have processes of their own.
    with closing(workers), progress_bar(len(jobs), "masks", "scan", disable=not progress) as bar:
        for job, result in workers:
            if isinstance(result, TimedOut):
                late = f"{job.scan.path}: given up after {result.seconds:.0f} s"
                _take(job, _Failure(_rejection(job, "time-limit", late)), tally)
            else:
                _take(job, _died(job, result) if isinstance(result, WorkerDied) else result, tally)
            bar.set_postfix(rejected=tally.rejected.total(), refresh=False)
            bar.update()


def _take(job: _Job, result: _Result, tally: _Tally) -> None:
    if isinstance(result, AnatoBenchError):
        raise result
    if isinstance(result, tuple):
        tally.notes += [f"{job.scan.case_id}: {note}" for note in result]
        tally.made += 1
        tally.failures = 0
        return
    if isinstance(result, _Failure):
        tally.failures += 1
        result = result.rejection
    job.folder.reject(result)
    tally.rejected[result.reason] += 1
    if tally.failures == FAILURES_IN_A_ROW:
        raise AnatoBenchError(
            f"the segmenter failed on {FAILURES_IN_A_ROW} scans in a row, last on {result.case_id} ({result.message}): "
            "stopped, because this is hardly the scans' fault; what is finished stays"
        )


def _seconds_for(job: _Job) -> float:
    """Return what a worker may take for a scan: reading it, and then segmenting it on what may be two cores."""
    return SEGMENTING_SECONDS + SEGMENTING_FACTOR * reading_seconds(job.scan.path)


def _do(job: _Job) -> _Result:
    """Segment one scan and write its mask, in a worker."""
    try:
        volume = read_volume(job.scan.path, job.scan.header, job.scan.rescale)
        labels, grid = segment(job.scan, volume, job.segmenter)
    except CaseError as error:
        return _rejection(job, error.reason, str(error))
    except AnatoBenchError as error:
        return error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the segmenter's, or a fault nobody thought of
        return _Failure(_rejection(job, "segmenter-failed", f"{type(error).__name__}: {error}"))
    try:
        with disk_errors_named("masks"):
            job.folder.write(job.scan.case_id, labels, grid.affine, job.segmenter.names)
    except AnatoBenchError as error:
        return error
    return volume.notes


def _died(job: _Job, death: WorkerDied) -> _Failure:
    return _Failure(
        _rejection(
            job,
            "worker-died",
            f"the process that segmented it ended with exit code {death.exit_code}: too little memory, or a damaged "
            "file that crashes its decoder",
        )
    )


def _rejection(job: _Job, reason: str, message: str) -> Rejection:
    return Rejection(job.scan.case_id, str(job.scan.path), reason, message)
