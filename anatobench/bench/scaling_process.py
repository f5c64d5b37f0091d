"""What every process of the scaling benchmark does: `python -m anatobench.bench.scaling_process SETTINGS`.

It finds its place as a training run does, by what started it; the first process prints the figures as JSON. One such
start of some processes is a point of the curve.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from anatobench.bench.all_reduce import FLOAT_BYTES, REPEATS, sizes
from anatobench.bench.random_batch import random_batch
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import paper_recipe
from anatobench.store.batch import Batch
from anatobench.system.gpus import refuse_unwanted_cpu
from anatobench.system.host import describe_code, host_record
from anatobench.system.parent import end_with_parent
from anatobench.system.processes import find_processes
from anatobench.system.worker_pool import usable_cores
from anatobench.tasks import get_task

POINT = "scaling_point"
WEAK, STRONG = "weak", "strong"
RUNNING_VALUES = (".running_mean", ".running_var")
WARM_UP = 2


@dataclass(frozen=True)
class StepSettings:
    """One configuration, as it travels on the command line."""

    framework: str
    model: str
    size: str
    task: str
    batch_size: int
    """Of one process in weak scaling, of all together in strong scaling."""
    precision: str
    segmentation: bool
    repeats: int
    modes: tuple[str, ...] = (WEAK, STRONG)
    seed: int = 0

    def global_batch(self, mode: str, processes: int) -> int:
        """Cases of a step in that many processes."""
        return self.batch_size * (processes if mode == WEAK else 1)


def measure(settings: StepSettings) -> dict[str, Any] | None:
    """Seconds of each step, and of adding up arrays; None in a process that does not lead.

    `UsageError` if a batch cannot be shared out evenly.
    """
    processes = find_processes()
    task = get_task(settings.task)
    crop_size = task.geometry(settings.size).crop_size
    spec = ModelSpec(settings.model, settings.size, task, crop_size, diagnosis_heads(settings.segmentation))
    batches = {mode: settings.global_batch(mode, processes.count) for mode in settings.modes}
    if processes.alone:
        batches = dict(list(batches.items())[:1])  # the same batch, whatever the mode
    shares = {mode: processes.share(batch) for mode, batch in batches.items()}
    recipe = replace(
        paper_recipe(task, settings.model),
        batch_size=max(batches.values()),
        precision=settings.precision,
        seed=settings.seed,
    )
    engine = load_engine(settings.framework, spec, recipe, processes)
    refuse_unwanted_cpu(engine.device()["kind"])
    given = {mode: random_batch(spec, share, settings.seed + processes.index) for mode, share in shares.items()}
    steps = {mode: _seconds(engine, batch, recipe.learning_rate, settings.repeats) for mode, batch in given.items()}
    parameters = {name: array for name, array in engine.weights().items() if not name.endswith(RUNNING_VALUES)}
    gradient_bytes = sum(FLOAT_BYTES * array.size for array in parameters.values())
    sums = [] if processes.alone else [(size, _sum(engine, size)) for size in sizes(gradient_bytes)]
    nodes = len(np.unique(engine.gather(_own_node()), axis=0))
    device = engine.device()
    versions = device.pop("versions")
    normalised = sum(name.endswith(RUNNING_VALUES[0]) for name in engine.weights())
    engine.close()
    if not processes.leads:
        return None
    return {
        "kind": POINT,
        "settings": {**asdict(settings), "modes": list(settings.modes)},
        "processes": processes.count,
        "nodes": nodes,
        "modes": {mode: {"global_batch": batches[mode], "seconds": seconds} for mode, seconds in steps.items()},
        "all_reduce": [{"bytes": size, "seconds": seconds} for size, seconds in sums],
        "threads_per_process": int(os.environ.get("OMP_NUM_THREADS") or usable_cores()),
        "device": device,
        "versions": versions,
        "gradient_bytes": gradient_bytes,
        "batch_norms": normalised,
        "batch_digest": next(iter(given.values())).digest(),
        "host": host_record(),
        "code": describe_code(),
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


def _sum(engine: Engine, size: int) -> list[float]:
    return engine.all_reduce_seconds(size // FLOAT_BYTES, REPEATS)


def _own_node() -> np.ndarray:
    """uint8 [32]: the same in all processes of a machine."""
    return np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest(), np.uint8)


def main() -> None:
    end_with_parent(signal.SIGKILL)
    given = json.loads(sys.argv[1])
    settings = StepSettings(**{field.name: given[field.name] for field in fields(StepSettings)})
    found = measure(replace(settings, modes=tuple(settings.modes)))
    if found is not None:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
