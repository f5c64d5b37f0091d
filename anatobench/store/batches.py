"""Store -> Grain -> host batches: the same bytes in the same order for both frameworks and any number of processes.

What a batch holds is planned before anything is read: which case, and where its crop starts. The plan is a function
of seed, batch size and step alone, so it is the same on every machine, any step can be opened directly, and the state
of an iterator is one number. Processes share out each global batch of the plan, then read only their own part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anatobench.datasets.case import SPLITS
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.store.augmentation import Augmentation
from anatobench.store.batch import DIAGNOSIS, Batch
from anatobench.store.crops import centre_crop_start, random_crop_start
from anatobench.store.mask_noise import MaskNoise
from anatobench.store.reader import Store
from anatobench.system.processes import Processes
from anatobench.system.recycled_memory import RecycledMemory
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, Size, Task
from anatobench.volumes.volume import AIR_HU

if TYPE_CHECKING:  # Grain is imported where it is used: it takes a second, and jax with it where that is installed
    import grain

PADDING = -1
"""`case_index` of the places of an evaluation batch that hold no case."""
WORKERS = 2
"""Threads that read ahead, one batch each; a full-size chest batch of 10 takes 106 MB."""

CropPlan = tuple[int, Size]
"""Position of a case in the store, and where its crop starts (D, H, W)."""


@dataclass(frozen=True)
class PlannedBatch:
    """One process's part of a batch, before anything is read."""

    reads: tuple[str, ...]
    """The arrays that it holds."""
    plans: Sequence[CropPlan]
    step: int = 0
    """From 0; of training batches alone."""


@dataclass(frozen=True)
class Table:
    """An array that comes whole with a case, whatever its crop. What fills the places that hold no case is
    `MISSING_TARGET`."""

    dtype: np.dtype
    row: Callable[[Store, int], Sequence[float]]
    """Of the case at that position of the store."""
    drawn: Callable[[np.random.Generator, Task, int], np.ndarray]
    """[cases, columns] drawn at random, for what needs no data set: parity and benchmarks."""


def _random_targets(generator: np.random.Generator, task: Task, cases: int) -> np.ndarray:
    return np.stack([generator.integers(0, len(group.grades), cases) for group in task.groups], axis=1)


def _random_annotation(generator: np.random.Generator, task: Task, cases: int) -> np.ndarray:
    """Half of the classes of each case, one at least."""
    order = generator.permuted(np.tile(np.arange(len(task.mask_classes)), (cases, 1)), axis=1)
    return order < (len(task.mask_classes) + 1) // 2


def _random_weights(generator: np.random.Generator, task: Task, cases: int) -> np.ndarray:
    return generator.uniform(0.25, 4.0, (cases, 1))


TABLES: dict[str, Table] = {
    "targets": Table(np.dtype(np.int8), lambda store, index: store.cases[index].targets, _random_targets),
    "annotated": Table(np.dtype(np.int8), lambda store, index: store.annotated(index), _random_annotation),
    "weight": Table(np.dtype(np.float32), lambda store, index: (store.cases[index].weight,), _random_weights),
}
DENSE = {"volume": np.int16, "organs": np.uint8}
"""The arrays that are cropped, with their types; `TABLES` are the others."""
_WITHOUT_CASE = {"volume": AIR_HU, "organs": IGNORED_ORGAN}


class Batches(Iterator[Batch]):
    """Batches from a step on, read ahead in the background. Close it, or use it in a `with` statement."""

    def __init__(
        self, plan: grain.MapDataset, read: _CropReader, identity: dict[str, Any], start_step: int, workers: int
    ):
        self._dataset = plan.map(read)
        self._identity = identity
        self._workers = workers
        self._open(start_step)

    def __next__(self) -> Batch:
        batch: Batch = next(self._iterator)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Return the next step and what the order depends on, in plain JSON types."""
        return {"step": self._step, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was taken, in this process or another, with any number of processes.

        Raises AnatoBenchError if the state belongs to other cases, another seed or another batch size.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise AnatoBenchError(
                    f"the saved order of cases has {name} {state.get(name)}, this run has {value}: "
                    "resume with the same store, seed and batch size, or start a new run"
                )
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise AnatoBenchError(f"the saved order of cases has step {step!r}: the checkpoint is damaged")
        self.close()
        self._open(step)

    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, step: int) -> None:
        # A slice that starts at the step needs nothing of Grain's own iterator state, whose form is not ours. Reading
        # and copying crops lets go of Python's lock, so threads do what Grain's worker processes would, without
        # their copies.
        import grain

        options = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=self._workers)
        self._iterator = iter(self._dataset[step:].to_iter_dataset(options))
        self._step = step


def steps_per_epoch(store: Store, batch_size: int) -> int:
    """Training batches in one epoch. The cases that do not fill a last batch are left out, others each epoch.

    `UsageError` if there are fewer training cases than one batch.
    """
    cases = len(store.split("train"))
    if batch_size < 1 or cases < batch_size:
        if not cases:
            raise UsageError(f"{store.root}: nothing to train on: it holds {store.contents}")
        raise UsageError(
            f"{store.root}: has {cases} training cases, too few for one batch of {batch_size}: prepare more, or take a "
            f"smaller batch (--set batch_size={cases})"
        )
    return cases // batch_size


def training_batches(
    store: Store,
    seed: int,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
    workers: int = WORKERS,
    reads: Callable[[int], Sequence[str]] = lambda step: DIAGNOSIS,
    mask_noise: MaskNoise | None = None,
    augmentation: Augmentation | None = None,
) -> Batches:
    """Endless training batches: the cases in a new order every epoch, each cropped at a random place.

    `batch_size` counts cases over all processes; each process gets as many of each global batch, one process's
    behind the other's. `workers` threads read ahead, none if 0: the same bytes. `reads` names the arrays of a step's
    batch, from 0, in the order of its digest; `mask_noise` changes the organs, and then `augmentation` the crops.
    """
    import grain

    part = _part_of_batch(batch_size, process_index, process_count)
    steps = steps_per_epoch(store, batch_size)
    indices = store.split("train")
    order_seed, crop_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    padded, crop = store.geometry.padded_size, store.geometry.crop_size

    def plan_crop(index: int, rng: np.random.Generator) -> CropPlan:
        return index, random_crop_start(rng, padded, crop)

    plan = (
        grain.MapDataset.source(indices)
        .shuffle(order_seed)[: steps * batch_size]
        .random_map(plan_crop, seed=crop_seed)
        .batch(batch_size, batch_fn=list)
        .map(lambda plans: plans[part])
        .repeat()
        .map_with_index(lambda step, plans: PlannedBatch(tuple(reads(step)), plans, step))
    )
    identity = {"seed": seed, "batch_size": batch_size, "cases": _fingerprint(store, indices)}
    reader = _CropReader(store, mask_noise, augmentation, part.start)
    return Batches(plan, reader, identity, start_step, workers)


def evaluation_batches(
    store: Store,
    split: str,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = WORKERS,
) -> Batches:
    """Return every case of a split once, in the store's order, cropped at the centre.

    The last batch is padded with places whose `case_index` is -1, so that every batch has the same shape and all
    processes get the same number of batches.
    """
    import grain

    part = _part_of_batch(batch_size, process_index, process_count)
    indices = store.split(split)
    if not indices:
        raise AnatoBenchError(f"{store.root}: has no {split} cases: choose another of {', '.join(SPLITS)}")
    centre = centre_crop_start(store.geometry.padded_size, store.geometry.crop_size)
    padded = indices + [PADDING] * (-len(indices) % batch_size)
    plans: list[CropPlan] = [(index, centre) for index in padded]
    batched = grain.MapDataset.source(plans).batch(batch_size, batch_fn=list)
    plan = batched.map(lambda batch: PlannedBatch(DIAGNOSIS, batch[part]))
    identity = {"split": split, "batch_size": batch_size, "cases": _fingerprint(store, indices)}
    return Batches(plan, _CropReader(store), identity, 0, workers)


class _CropReader:
    """Reads the crops of one planned batch straight into the batch's arrays."""

    def __init__(
        self,
        store: Store,
        mask_noise: MaskNoise | None = None,
        augmentation: Augmentation | None = None,
        first_place: int = 0,
    ):
        self._store = store
        self._memory = RecycledMemory()
        self._mask_noise = mask_noise
        self._augmentation = augmentation
        self._first_place = first_place
        """Of this process's part in the global batch."""

    def __call__(self, planned: PlannedBatch) -> Batch:
        plans = planned.plans
        arrays = {name: self._empty(name, len(plans)) for name in dict.fromkeys(("volume", *planned.reads))}
        for place, (index, start) in enumerate(plans):
            rows = {name: array[place] for name, array in arrays.items()}
            if index == PADDING:
                for name, row in rows.items():
                    row[...] = _WITHOUT_CASE.get(name, MISSING_TARGET)
            else:
                self._read(index, start, rows, planned.step, self._first_place + place)
        case_index = np.array([index for index, _ in plans], np.int32)
        return Batch({name: arrays[name] for name in planned.reads}, case_index)

    def _empty(self, name: str, cases: int) -> np.ndarray:
        """Return an array of the batch without content."""
        if name in DENSE:
            return self._memory.empty((cases, *self._store.geometry.crop_size), DENSE[name])
        table = TABLES[name]
        return np.empty((cases, len(table.row(self._store, 0))), table.dtype)

    def _read(self, index: int, start: Size, rows: dict[str, np.ndarray], step: int, place: int) -> None:
        volume = rows["volume"]
        out = (volume, rows["organs"] if "organs" in rows else np.empty(volume.shape, np.uint8))
        read = _read_crop if self._mask_noise is None else self._mask_noise.read_crop
        if self._augmentation is None:
            read(self._store, index, start, out)
        else:
            self._augmentation.read_crop(read, self._store, index, start, out, step, place)
        for name in rows.keys() & TABLES.keys():
            rows[name][...] = TABLES[name].row(self._store, index)


def _read_crop(store: Store, index: int, start: Size, out: tuple[np.ndarray, np.ndarray]) -> None:
    store.read_crop(index, start, out[0].shape, out)


def _part_of_batch(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least 1")
    share = Processes(process_index, process_count).share(batch_size)
    return slice(process_index * share, (process_index + 1) * share)


def _fingerprint(store: Store, indices: Sequence[int]) -> str:
    """BLAKE2b over the data that the order of cases depends on."""
    content = [(index, store.cases[index].case_id, store.cases[index].checksum) for index in indices]
    return hashlib.blake2b(json.dumps([store.size, content]).encode(), digest_size=16).hexdigest()
