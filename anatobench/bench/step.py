"""Time of one training step: forward, backward and optimizer, on random scans of the right statistics."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatobench.bench.flops import count, peak_flops
from anatobench.engine import Batch, ModelSpec, load_engine
from anatobench.recipes import Recipe
from anatobench.tasks import Task


@dataclass(frozen=True)
class StepTimes:
    """Seconds."""

    compile: float
    """The first step: compilation, memory planning, kernel choice."""
    steps: np.ndarray
    """float64 [repeats]"""


def random_batch(spec: ModelSpec, size: int, seed: int) -> Batch:
    """Scans with a soft-tissue body in air, noise and block-shaped organs: never zeros, which some kernels run faster.

    Every grade of every label group occurs if the batch is large enough.
    """
    rng = np.random.default_rng(seed)
    shape = (size, *spec.crop_size)
    d, h, w = (np.linspace(-1, 1, n, dtype=np.float32) for n in spec.crop_size)
    body = (h[:, None] ** 2 + w[None, :] ** 2 < 0.8)[None, None] & (np.abs(d) <= 1)[None, :, None, None]
    volume = np.where(body, rng.normal(40, 60, shape), rng.normal(-990, 12, shape)).round()
    organ = ((d[:, None, None] > 0) * 1 + (h[:, None] > 0) * 2 + (w > 0) * 4) % spec.task.segmentation_classes
    organs = np.where(body, organ[None], 0).astype(np.uint8)
    targets = np.stack([rng.integers(0, len(group.grades), size) for group in spec.task.groups], axis=1)
    return Batch(
        volume=np.clip(volume, -1000, 1000).astype(np.int16),
        organs=np.array(np.broadcast_to(organs, shape)),
        targets=targets.astype(np.int8),
        case_index=np.arange(size, dtype=np.int32),
    )


def time_steps(engine: Any, batch: Batch, recipe: Recipe, repeats: int, warm_up: int = 2) -> StepTimes:
    """Run `repeats` timed steps after compilation and warm-up; each waits for the device."""

    def step(number: int) -> float:
        start = time.perf_counter()
        engine.train_step(batch, recipe.learning_rate, number).fetch()
        return time.perf_counter() - start

    compile_seconds = step(0)
    for number in range(warm_up):
        step(1 + number)
    return StepTimes(compile_seconds, np.array([step(1 + warm_up + number) for number in range(repeats)]))


def median_interval(samples: np.ndarray, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(samples, (resamples, len(samples))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def bench_step(
    framework: str, model: str, size: str, task: Task, batch_size: int, recipe: Recipe, segmentation: bool, repeats: int
) -> dict[str, Any]:
    """Measure one configuration; the keys are those `anatobench bench step --json` documents."""
    spec = ModelSpec(model, size, task, task.geometry(size).crop_size, segmentation)
    engine = load_engine(framework, spec, recipe)
    batch = random_batch(spec, batch_size, recipe.seed)
    times = time_steps(engine, batch, recipe, repeats)
    device = engine.device()
    versions = device.pop("versions")
    median = float(np.median(times.steps))
    flops = count(spec).training * batch_size
    peak = peak_flops(device["name"], recipe.precision)
    peak_memory = device.pop("peak_memory_bytes", None)
    return {
        "framework": framework,
        "model": model,
        "size": size,
        "geometry": task.anatomy,
        "crop_size": list(spec.crop_size),
        "batch_size": batch_size,
        "precision": recipe.precision,
        "segmentation": segmentation,
        "repeats": repeats,
        "median_s": median,
        "ci95_s": list(median_interval(times.steps)),
        "samples_per_s": batch_size / median,
        "model_flops_per_step": flops,
        "mfu": None if peak is None else flops / median / peak,
        "peak_memory_bytes": _peak_host_memory() if peak_memory is None else peak_memory,
        "peak_memory_of": "process" if peak_memory is None else "device",
        "compile_s": times.compile,
        "device": device,
        "versions": versions,
        "batch_digest": batch.digest(),
    }


def _peak_host_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
