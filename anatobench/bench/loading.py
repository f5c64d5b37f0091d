"""Loading: crops per second from a store through Grain, beside a plain copy of as many bytes and what a device needs.

Every figure is measured in turns with the others. Volumes per second and core are volumes per second of processor
time, so that other work on the machine disturbs them less than it does the wall clock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatobench.bench.rounds import Closable, Rounds, measure_in_turns, rates, ratio_with_interval
from anatobench.errors import AnatoBenchError
from anatobench.store.batch import Batch
from anatobench.store.batches import Batches, training_batches
from anatobench.store.reader import Store, data_file
from anatobench.system.host import describe_code, host_record, resident_bytes
from anatobench.system.progress import progress_bar

PLAIN_COPY = "plain copy"
MEMORY_COPY = "memory copy"
ORDER_SEED = 0
MEMORY_SAMPLES = 200


@dataclass(frozen=True)
class LoadPlan:
    """What is measured."""

    batch_size: int
    workers: tuple[int, ...] = (0, 1, 2)
    """Threads that read ahead; 0 reads in the thread that asks."""
    round_batches: int = 10
    """Batches per contestant and round."""
    rounds: int = 7
    memory_batches: int = 0
    """Batches of the run that watches memory; 0 leaves it out."""


def bench_load(store: Store, plan: LoadPlan, demand: float | None = None, demand_source: str = "") -> dict[str, Any]:
    """Return the record that `benchmarks/results/schemas/load.json` describes; `demand` in volumes per second."""
    faults = store.verify()  # so that no file is compared with its checksum while the clock runs
    if faults:
        raise AnatoBenchError(faults[0])
    first = first_batch(store, plan.batch_size)
    volumes = plan.round_batches * plan.batch_size
    contestants: dict[str, Callable[[], Closable | None]] = {
        PLAIN_COPY: PlainCopy(store, first, plan.round_batches),
        MEMORY_COPY: MemoryCopy(first, plan.round_batches),
    }
    for workers in plan.workers:
        contestants[_name(workers)] = Loading(store, plan, workers)
        if workers > 1:
            contestants[_copies(workers)] = PlainCopy(store, first, plan.round_batches, workers)
    with progress_bar(plan.rounds + 1, "bench load", "round") as bar:
        measured = measure_in_turns(contestants, plan.rounds, bar.update)
    loaders = [_loader_record(measured, workers, volumes) for workers in plan.workers]
    fewest = measured[_name(min(plan.workers))]
    best = max(entry["volumes_per_s"] for entry in loaders)
    per_core = max(entry["volumes_per_s_per_core"] for entry in loaders)
    return {
        "kind": "load",
        "store": store_record(store),
        "batch_size": plan.batch_size,
        "bytes_per_volume": crop_bytes(first) // plan.batch_size,
        "batches_per_round": plan.round_batches,
        "rounds": plan.rounds,
        "loaders": loaders,
        "plain_copy": rates(measured[PLAIN_COPY], volumes),
        "memory_copy": rates(measured[MEMORY_COPY], volumes),
        "share_of_plain_copy": ratio_with_interval(measured[PLAIN_COPY].cpu_s, fewest.cpu_s),
        "volumes_per_s": best,
        "volumes_per_s_per_core": per_core,
        "demand": demand_record(demand, demand_source, best, per_core),
        "memory": watch_memory(store, plan) if plan.memory_batches else None,
        "batch_digest": first.digest(),
        "host": host_record(),
        "code": describe_code(),
    }


def _loader_record(measured: Mapping[str, Rounds], workers: int, volumes: int) -> dict[str, Any]:
    """With several workers also how fast as many threads copy: what the machine leaves of "linear in cores"."""
    found = measured[_name(workers)]
    record = {"workers": workers, **rates(found, volumes)}
    if workers > 1:
        copies = measured[_copies(workers)]
        record["plain_copies"] = rates(copies, volumes)
        record["share_of_plain_copies"] = ratio_with_interval(copies.wall_s, found.wall_s)
    return record


def first_batch(store: Store, batch_size: int) -> Batch:
    """Return the batch whose digest tells that two measurements loaded the same."""
    with training_batches(store, ORDER_SEED, batch_size, workers=0) as batches:
        return next(batches)


class Loading:
    """A round of batches through Grain, each let go at once.

    Without workers the batches stay open from round to round. With workers every round opens them anew and leaves them
    to be closed, because what is read ahead between and after rounds is not part of any.
    """

    def __init__(self, store: Store, plan: LoadPlan, workers: int) -> None:
        self._store, self._plan, self._workers = store, plan, workers
        self._steady: Batches | None = None

    def __call__(self) -> Closable | None:
        batches = self._steady or training_batches(
            self._store, ORDER_SEED, self._plan.batch_size, workers=self._workers
        )
        for _ in range(self._plan.round_batches):
            next(batches)
        if self._workers:
            return batches
        self._steady = batches
        return None


class PlainCopy:
    """The ceiling: as many bytes of the same files as crops have, read in one go each into memory used again.

    Several threads share the files, each with memory of its own.
    """

    def __init__(self, store: Store, batch: Batch, batches: int, threads: int = 1) -> None:
        indices = store.split("train")
        self._paths = [data_file(store.root, store.cases[index].case_id) for index in indices]
        self._volumes, self._threads = batches * batch.size, threads
        volume = crop_bytes(batch) // batch.size
        self._memory = np.ones(threads * batch.size * volume, np.uint8).reshape(threads, batch.size, volume)

    def __call__(self) -> None:
        if self._threads == 1:
            return self._copy(0)
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(self._copy, range(self._threads)))

    def _copy(self, thread: int) -> None:
        memory = self._memory[thread]
        for number in range(thread, self._volumes, self._threads):
            descriptor = os.open(self._paths[number % len(self._paths)], os.O_RDONLY)
            try:
                os.preadv(descriptor, [memory[number % len(memory)].data], 0)
            finally:
                os.close(descriptor)


class MemoryCopy:
    """As many bytes from memory to memory."""

    def __init__(self, batch: Batch, batches: int) -> None:
        self._source, self._batches = batch["volume"].copy(), batches
        self._organs = batch["organs"].copy()
        self._volume, self._mask = np.ones_like(self._source), np.ones_like(self._organs)

    def __call__(self) -> None:
        for _ in range(self._batches):
            np.copyto(self._volume, self._source)
            np.copyto(self._mask, self._organs)


def crop_bytes(batch: Batch) -> int:
    """Bytes of all its crops."""
    return batch["volume"].nbytes + batch["organs"].nbytes


def store_record(store: Store) -> dict[str, Any]:
    """Return what was loaded from, without its place on the machine."""
    return {
        "dataset": store.dataset,
        "task": store.task.name,
        "size": store.size,
        "training_cases": len(store.split("train")),
        "padded_size": list(store.geometry.padded_size),
        "crop_size": list(store.geometry.crop_size),
        "bytes": sum(case.byte_size for case in store.cases),
    }


def demand_record(demand: float | None, source: str, total: float, per_core: float) -> dict[str, Any] | None:
    """Return how loading compares with what one device consumes; None if that is not known."""
    if demand is None:
        return None
    return {
        "volumes_per_s": demand,
        "source": source,
        "times_demand": total / demand,
        "cores_needed": demand / per_core,
    }


def watch_memory(store: Store, plan: LoadPlan) -> dict[str, Any]:
    """Resident memory while many batches are loaded; the slope leaves out the first quarter, in which pools fill."""
    every = max(1, plan.memory_batches // MEMORY_SAMPLES)
    batches_done: list[int] = []
    resident: list[int] = []
    with (
        training_batches(store, ORDER_SEED, plan.batch_size, workers=max(plan.workers)) as batches,
        progress_bar(plan.memory_batches, "watch memory", "batch") as bar,
    ):
        for number in range(1, plan.memory_batches + 1):
            next(batches)
            if number % every == 0:
                batches_done.append(number)
                resident.append(resident_bytes())
            bar.update()
    return {"batches": plan.memory_batches, **memory_growth(batches_done, resident)}


def memory_growth(batches: Sequence[int], resident: Sequence[int]) -> dict[str, Any]:
    """Return the line through the last three quarters of the samples, in bytes per batch, and what it adds up to."""
    settled = len(batches) // 4
    steps, held = np.array(batches[settled:], np.float64), np.array(resident[settled:], np.float64)
    slope = float(np.polyfit(steps - steps[0], held, 1)[0]) if len(steps) > 1 else 0.0
    return {
        "slope_bytes_per_batch": slope,
        "growth_bytes": slope * (steps[-1] - steps[0]) if len(steps) else 0.0,
        "median_bytes": float(np.median(held)) if len(held) else 0.0,
        "sampled_batches": list(batches),
        "resident_bytes": list(resident),
    }


def _name(workers: int) -> str:
    return f"{workers} workers"


def _copies(threads: int) -> str:
    return f"{PLAIN_COPY}, {threads} threads"
