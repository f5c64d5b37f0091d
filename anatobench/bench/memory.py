"""The largest batch that fits, and what a case costs in memory.

Every probe is a process of its own that takes two steps: running out of memory leaves nothing behind that could
disturb the next one. The search goes where a straight line through the peaks so far says the limit is, and halves the
rest of the way where the line was wrong.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.bench.arm_cache import arm_cache
from anatobench.bench.arms import Arm, ArmError, ArmProcess
from anatobench.bench.gpu_watch import watched_gpus
from anatobench.bench.quiet import OtherWork, disturbances, gpu_use
from anatobench.bench.random_batch import random_batch, write_batch
from anatobench.bench.step import build_request, spec_record
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.system.host import describe_code, describe_host

SHARE_OF_HOST_MEMORY = 0.5
"""What a CPU's search may take of the memory that is free, unless told otherwise."""
RESOLUTION = 0.05
"""The search ends when the largest batch is known this well, relatively, or exactly."""


@dataclass(frozen=True)
class Probe:
    """One batch size that was tried."""

    batch_size: int
    fits: bool
    bytes: int | None
    """The peak: of a device, or of the process beyond what it held before its first step. None if it did not fit."""
    limit_bytes: int | None
    """What there is; None if the probe died before it could tell."""
    error: str | None = None


@dataclass(frozen=True)
class MemoryBenchmark:
    """What is measured."""

    arm: Arm
    spec: ModelSpec
    recipe: Recipe
    limit: int | None = None
    """Bytes. On a CPU the process gets no more; on a GPU a larger peak counts as not fitting."""
    margin: float = 0.1
    """Share of the limit that `recommended_batch` leaves free."""
    first: int = 1
    """The batch to try first."""
    at_most: int = 4096
    seconds: float | None = None
    """End after so long with the probes that were done; one that was under way counts for nothing."""
    cache: Path | None = None
    """Below it every arm keeps its compiled programs; None: wherever the environment says."""


def bench_memory(asked: MemoryBenchmark, progress: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Measure; the record of `anatobench bench memory --json` (benchmarks/results/schemas/memory.json).

    `AnatoBenchError` if not even one case fits, or if a probe fails for another reason.
    """
    started, host, gpu_before, others = datetime.now(UTC), describe_host(), gpu_use(), OtherWork()
    until = None if asked.seconds is None else time.monotonic() + asked.seconds
    told: dict[str, Any] = {}

    def probe(batch_size: int) -> Probe | None:
        found = _probe(asked, batch_size, told, until)
        if found is None:
            return None
        progress(f"batch {batch_size} {'fits' if found.fits else 'does not fit'}")
        return found

    with watched_gpus() as gpu:
        try:
            probes = search(probe, asked.at_most, until, asked.first)
        except ArmError as error:
            raise AnatoBenchError(f"{asked.arm.name}: {error}") from None
    fitting = [p for p in probes if p.fits]
    if not fitting:
        smallest = min(probes, key=lambda p: p.batch_size, default=None)
        if smallest is None or smallest.batch_size > 1:
            raise AnatoBenchError(f"{asked.arm.name}: no batch that fits was found in {asked.seconds:.0f} s")
        raise AnatoBenchError(f"{asked.arm.name}: not even one case fits: {smallest.error}")
    fixed, per_case = straight_line(fitting)
    largest = max(p.batch_size for p in fitting)
    machine = {**host, "other_cores": others.cores(), "gpu_before": gpu_before, "gpu": gpu.to_json()}
    return {
        "kind": "memory",
        "name": asked.arm.name,
        "framework": asked.arm.framework,
        **spec_record(asked.spec),
        "precision": told["precision"],
        "segmentation": asked.arm.segmentation,
        "recompute": asked.recipe.recompute,
        "largest_batch": largest,
        "smallest_not_fitting": min((p.batch_size for p in probes if not p.fits), default=None),
        "complete": _narrow(largest, min((p.batch_size for p in probes if not p.fits), default=asked.at_most + 1)),
        "recommended_batch": recommended(fitting, asked.margin),
        "margin": asked.margin,
        "bytes_per_case": per_case,
        "fixed_bytes": fixed,
        "limit_bytes": fitting[-1].limit_bytes,
        "memory_of": told["peak_memory_of"],
        "probes": [asdict(p) for p in probes],
        "device": told["device"],
        "versions": told["versions"],
        "warnings": list(disturbances(machine)),
        "machine": machine,
        "code": describe_code(),
        "started": started.isoformat(timespec="seconds"),
    }


def search(
    probe: Callable[[int], Probe | None], at_most: int, until: float | None = None, first: int = 1
) -> list[Probe]:
    """Probes in the order they were taken; the last fitting and the first not fitting lie within `RESOLUTION`, unless
    the time (of `time.monotonic`) was up before. A `probe` that answers None ran out of time and is the last."""
    probes: list[Probe] = []
    good, bad = 0, at_most + 1
    while not _narrow(good, bad):
        if probes and until is not None and time.monotonic() > until:
            break
        batch_size = _next(probes, good, bad) if probes else min(first, at_most)
        found = probe(batch_size)
        if found is None:
            break
        probes.append(found)
        if probes[-1].fits:
            good = batch_size
        else:
            bad = batch_size
    return probes


def _narrow(good: int, bad: int) -> bool:
    return bad - good <= max(1, int(RESOLUTION * good))


def _next(probes: Sequence[Probe], good: int, bad: int) -> int:
    fitting = [p for p in probes if p.fits]
    if len(probes) == len(fitting) == 1:
        return min(2 * good, bad - 1)  # two points make a line
    if not probes[-1].fits:
        return (good + bad) // 2
    fixed, per_case = straight_line(fitting)
    limit = fitting[-1].limit_bytes
    if limit is None or per_case <= 0:
        return min(2 * good, (good + bad) // 2)
    # One more than the line allows, once that is reached: it shows where the end is.
    return min(max(int((limit - fixed) / per_case), good + max(1, int(RESOLUTION * good))), bad - 1)


def straight_line(fitting: Sequence[Probe]) -> tuple[float, float]:
    """Bytes that any batch takes, and bytes per case, by least squares; (0, bytes per case) for a single probe."""
    sizes = np.array([p.batch_size for p in fitting], np.float64)
    peaks = np.array([p.bytes for p in fitting], np.float64)
    if len(fitting) == 1:
        return 0.0, float(peaks[0] / sizes[0])
    per_case, fixed = np.polyfit(sizes, peaks, 1)
    return float(fixed), float(per_case)


def recommended(fitting: Sequence[Probe], margin: float) -> int:
    """Return the largest batch that ran, or as much less as it takes to leave `margin` of the limit free; at least
    1."""
    largest, limit = max(p.batch_size for p in fitting), fitting[-1].limit_bytes
    fixed, per_case = straight_line(fitting)
    if limit is None or per_case <= 0:
        return max(1, int((1 - margin) * largest))
    return max(1, min(largest, int(((1 - margin) * limit - fixed) / per_case)))


def _probe(asked: MemoryBenchmark, batch_size: int, told: dict[str, Any], until: float | None) -> Probe | None:
    """In a process of its own; None if the time is up. `ArmError` if it fails for another reason than memory."""
    limit, environment = asked.limit, arm_cache(asked.cache, asked.arm).environment
    with tempfile.TemporaryDirectory(prefix="anatobench-bench-") as name:
        folder = Path(name)
        write_batch(random_batch(asked.spec, batch_size, asked.recipe.seed), folder)
        request = build_request(asked.arm, asked.spec, replace(asked.recipe, batch_size=batch_size), folder)
        with ArmProcess(asked.arm, folder, 0, environment) as process:
            try:
                described = process.ask("describe", until, **request)
            except ArmError as error:
                if error.out_of_time:
                    return None
                raise
            on_cpu = described["device"]["kind"] == "cpu"
            held = described["held_bytes"] if on_cpu else 0
            if on_cpu:
                limit = limit or int(SHARE_OF_HOST_MEMORY * free_host_memory())
            try:
                if on_cpu:
                    process.ask("limit_memory", bytes=limit)
                process.ask("prepare", until, warm_up=1)
                finished = process.ask("finish", until)
            except ArmError as error:
                if error.out_of_time:
                    return None
                if error.out_of_memory or (on_cpu and error.died):
                    return Probe(batch_size, False, None, limit, str(error))
                raise
    told.update(described | finished)
    used = finished["peak_memory_bytes"] - held
    limit = limit or finished["total_memory_bytes"]
    if limit is not None and used > limit:
        return Probe(batch_size, False, None, limit, f"took {used} bytes of {limit}")
    return Probe(batch_size, True, used, limit)


def free_host_memory() -> int:
    """Bytes that processes could take without swapping; `AnatoBenchError` where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        raise AnatoBenchError("this system does not tell how much memory is free: give --limit") from None
