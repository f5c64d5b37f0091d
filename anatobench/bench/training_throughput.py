"""Training end to end, with loading and with one batch over and over, so that a person sees which side waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from anatobench.bench.rounds import Closable, Rounds, measure_in_turns, median_with_interval, ratio_with_interval
from anatobench.bench.step import spec_record
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.store.batches import Batches, training_batches
from anatobench.store.reader import Store
from anatobench.system.gpus import refuse_unwanted_cpu
from anatobench.system.host import describe_code, host_record
from anatobench.system.progress import progress_bar

WITH_LOADING, SAME_BATCH, LOADING_ALONE = "with_loading", "same_batch", "loading_alone"


@dataclass(frozen=True)
class TrainingPlan:
    """What is measured."""

    framework: str
    model: str
    recipe: Recipe
    segmentation: bool
    workers: int
    """Threads that read ahead."""
    round_steps: int
    rounds: int


def bench_train(store: Store, plan: TrainingPlan) -> dict[str, Any]:
    """Return the record that `benchmarks/results/schemas/train.json` describes."""
    spec = ModelSpec(plan.model, store.size, store.task, store.geometry.crop_size, diagnosis_heads(plan.segmentation))
    engine = load_engine(plan.framework, spec, plan.recipe)
    device = engine.device()
    refuse_unwanted_cpu(device["kind"])
    versions = device.pop("versions")
    device.pop("peak_memory_bytes", None)
    arms = TrainingArms(store, plan, engine)
    with progress_bar(plan.rounds + 1, "bench train", "round") as bar:
        measured = measure_in_turns(
            {WITH_LOADING: arms.with_loading, SAME_BATCH: arms.same_batch, LOADING_ALONE: arms.loading_alone},
            plan.rounds,
            bar.update,
        )
    batch_size = plan.recipe.batch_size
    slowdown = ratio_with_interval(measured[WITH_LOADING].wall_s, measured[SAME_BATCH].wall_s)
    return {
        "kind": "train",
        "framework": plan.framework,
        **spec_record(spec),
        "batch_size": batch_size,
        "precision": plan.recipe.precision,
        "segmentation": plan.segmentation,
        "workers": plan.workers,
        "steps_per_round": plan.round_steps,
        "rounds": plan.rounds,
        **{name: _per_step(rounds, plan.round_steps, batch_size) for name, rounds in measured.items()},
        "digest_s": arms.digest_seconds(),
        "slowdown": slowdown,
        "bottleneck": "loading" if _median(measured[LOADING_ALONE]) > _median(measured[SAME_BATCH]) else "device",
        "compile_s": arms.compile_s,
        "batch_digest": arms.batch.digest(),
        "device": device,
        "versions": versions,
        "host": host_record(),
        "code": describe_code(),
    }


class TrainingArms:
    """The three contestants. Steps are given to the device as the training loop does: one ahead of the one awaited."""

    def __init__(self, store: Store, plan: TrainingPlan, engine: Engine) -> None:
        self._store, self._plan, self._engine = store, plan, engine
        with self._open() as batches:
            self.batch = next(batches)
        began = time.perf_counter()
        engine.train_step(self.batch, plan.recipe.learning_rate, 0).fetch()
        self.compile_s = time.perf_counter() - began
        """The first step."""

    def with_loading(self) -> Closable:
        """Take each step's batch from the store and digest it while the device works, as in a run."""
        batches = self._open()
        self._train(batches, digest=True)
        return batches

    def same_batch(self) -> None:
        """Take the same batch, which is in memory."""
        self._train(repeat(self.batch), digest=False)

    def loading_alone(self) -> Closable:
        """As many batches and digests, without a device."""
        batches = self._open()
        for _ in range(self._plan.round_steps):
            next(batches).digest()
        return batches

    def digest_seconds(self, times: int = 5) -> float:
        """Median seconds of one batch's digest."""
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            self.batch.digest()
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    def _open(self) -> Batches:
        recipe = self._plan.recipe
        return training_batches(self._store, recipe.seed, recipe.batch_size, workers=self._plan.workers)

    def _train(self, batches: Iterator[Batch], digest: bool) -> None:
        in_flight = None
        for step in range(self._plan.round_steps):
            batch = next(batches)
            begun = self._engine.train_step(batch, self._plan.recipe.learning_rate, step)
            if digest:
                batch.digest()
            if in_flight is not None:
                in_flight.fetch()
            in_flight = begun
        if in_flight is not None:
            in_flight.fetch()


def _median(rounds: Rounds) -> float:
    return float(np.median(rounds.wall_s))


def _per_step(rounds: Rounds, steps: int, batch_size: int) -> dict[str, Any]:
    found = median_with_interval(rounds.wall_s / steps)
    return {
        "seconds_per_step": found["median"],
        "ci95_s": found["ci95"],
        "samples_per_s": batch_size / found["median"],
    }
