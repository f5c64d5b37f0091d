"""The whole ladder: every backbone and every task, as `anatobench parity --all` climbs it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.parity.climb import Climb, climb
from anatobench.recipes import MODELS
from anatobench.tasks import TASKS, Size
from anatobench.worker_pool import WorkerDied, run_in_workers

ODD_CROP: Size = (20, 44, 52)
"""No axis is a multiple of the strides: convolutions round, windows and poolings are padded, maps halve unevenly."""


def whole_ladder() -> tuple[Climb, ...]:
    """In float64 ten steps at the tiny and at an odd size; in float32 a pass at full size; and bfloat16's drift.

    At full size RAD-ChestCT is left out, being CT-RATE's model with two findings fewer, and the abdomen's pass has no
    gradients, which would take a CPU as long as all the rest.
    """
    float64 = [Climb(model, task, crop_size=crop) for crop in (None, ODD_CROP) for model in MODELS for task in TASKS]
    full = [
        Climb(model, task, "float32", "full", steps=0, backward=task == "ct_rate")
        for model in MODELS
        for task in ("ratic", "ct_rate")
    ]
    bfloat16 = [Climb(model, "ratic", "bfloat16", crop_size=ODD_CROP) for model in MODELS]
    return (*full, *float64, *bfloat16)


def climb_all(climbs: Sequence[Climb], workers: int) -> Iterator[dict[str, Any]]:
    """The figures of every climb as they come. Full-size climbs go first and one at a time, for they need the memory
    of the whole machine; the others share `workers` processes."""
    large = [asked for asked in climbs if asked.size == "full"]
    small = [asked for asked in climbs if asked.size != "full"]
    cores = os.cpu_count() or 1
    for part, count in ((large, 1), (small, workers)):
        for asked, figures in run_in_workers(_climb, part, count, native_threads=max(cores // count, 1)):
            if isinstance(figures, dict):
                yield figures
                continue
            what = f"parity of {asked.model} on {asked.task} ({asked.size}, {asked.dtype})"
            if isinstance(figures, WorkerDied):
                raise AnatoBenchError(
                    f"{what}: its process died (exit code {figures.exit_code}; -9 is usually too little memory)"
                )
            raise AnatoBenchError(f"{what}: {figures}")


def _climb(asked: Climb) -> dict[str, Any] | str:
    """The figures, or what went wrong: a worker may not raise."""
    try:
        return climb(asked)
    except AnatoBenchError as error:
        return str(error)
