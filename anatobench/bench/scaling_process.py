"""What every process of the scaling benchmark does: `python -m anatobench.bench.scaling_process SETTINGS`.

It finds its place by RANK and its kin, as a training run does; the first process prints its seconds as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import dataclass, fields, replace
from typing import Any

from anatobench.bench.random_batch import random_batch
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import paper_recipe
from anatobench.store.batch import Batch
from anatobench.system.parent import end_with_parent
from anatobench.system.processes import find_processes
from anatobench.tasks import get_task

RUNNING_VALUES = (".running_mean", ".running_var")
WARM_UP = 2


@dataclass(frozen=True)
class StepSettings:
    """One configuration, as it travels on the command line."""

    framework: str
    model: str
    size: str
    task: str
    global_batch: int
    precision: str
    segmentation: bool
    repeats: int
    seed: int = 0


def measure(settings: StepSettings) -> dict[str, Any] | None:
    """Seconds of each step, and what travels between processes; None in a process that does not lead."""
    processes = find_processes()
    task = get_task(settings.task)
    crop_size = task.geometry(settings.size).crop_size
    spec = ModelSpec(settings.model, settings.size, task, crop_size, diagnosis_heads(settings.segmentation))
    recipe = replace(
        paper_recipe(task, settings.model),
        batch_size=settings.global_batch,
        precision=settings.precision,
        seed=settings.seed,
    )
    engine = load_engine(settings.framework, spec, recipe, processes)
    share = processes.share(settings.global_batch)
    batch = random_batch(spec, share, settings.seed + processes.index)
    seconds = _seconds(engine, batch, recipe.learning_rate, settings.repeats)
    device = engine.device()
    versions = device.pop("versions")
    parameters = {name: array for name, array in engine.weights().items() if not name.endswith(RUNNING_VALUES)}
    normalised = sum(name.endswith(RUNNING_VALUES[0]) for name in engine.weights())
    engine.close()
    if not processes.leads:
        return None
    return {
        "seconds": seconds,
        "device": device,
        "versions": versions,
        "gradient_bytes": sum(4 * array.size for array in parameters.values()),
        "batch_norms": normalised,
        "batch_digest": batch.digest(),
    }


def _seconds(engine: Engine, batch: Batch, rate: float, repeats: int) -> list[float]:
    """Return the seconds of each step after the warm-up. A step ends when its metrics are there, which need every
    process."""
    seconds = []
    for step in range(WARM_UP + repeats):
        began = time.perf_counter()
        engine.train_step(batch, rate, step).fetch()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    end_with_parent(signal.SIGKILL)
    given = json.loads(sys.argv[1])
    found = measure(StepSettings(**{field.name: given[field.name] for field in fields(StepSettings)}))
    if found is not None:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
