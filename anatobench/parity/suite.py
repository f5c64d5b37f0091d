"""The whole ladder: every backbone and every task, as `anatobench parity --all` climbs it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from anatobench.backbones import CARDS, card_of
from anatobench.errors import AnatoBenchError
from anatobench.parity.climb import Climb, climb
from anatobench.system.gpus import visible_gpus
from anatobench.system.worker_pool import WorkerDied, WorkerPlace, run_in_workers
from anatobench.tasks import TASKS, Size

ODD_CROP: Size = (20, 44, 52)
"""No axis is a multiple of the strides: convolutions round, windows and poolings are padded, maps halve unevenly."""
ODD_STEPS = 2
"""What an odd size can break, it breaks in the first step, or in the statistics that the second one uses."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
"""glibc gives every large array back to the kernel and fetches it again page by page, which can take most of a pass on
a virtual machine (measured at full size on two cores: PyTorch's forward pass of r3d_18 15.0 s, with this 5.4 s)."""
QUICK_COMPILATION = "--xla_backend_optimization_level=0"
"""Half of a transformer's climb is XLA's compilation. This leaves out LLVM's optimisations and keeps XLA's own, fusions
and all; in float64 what it changes is rounding, far below the tolerance. Steps of a backbone that compiles quickly
would lose more than is won."""


def whole_ladder() -> tuple[Climb, ...]:
    """In float64 ten steps at the tiny size and two at an odd one; one pass in float32 at full size and in bfloat16.

    At full size RAD-ChestCT is left out, being CT-RATE's model with two findings fewer, and the abdomen's pass has no
    gradients, which would take a CPU as long as all the rest. A backbone climbs in the sizes that its card has.
    """
    small, large = ([name for name, card in CARDS.items() if size in card.layouts] for size in ("tiny", "full"))
    tiny = [Climb(model, task, batch_size=2) for model in small for task in TASKS]
    odd = [Climb(model, task, crop_size=ODD_CROP, steps=ODD_STEPS) for model in small for task in TASKS]
    full = [
        Climb(model, task, "float32", "full", steps=0, backward=TASKS[task].anatomy == "chest")
        for model in large
        for task in ("ratic", "ct_rate")
    ]
    bfloat16 = [Climb(model, "ratic", "bfloat16", steps=0, crop_size=ODD_CROP) for model in small]
    return (*full, *tiny, *odd, *bfloat16)


def climb_all(climbs: Sequence[Climb], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of every climb as they come. Full-size climbs go first, those with gradients one at a time and
    the others in pairs, for they need the memory of the whole machine; what is smaller shares `workers` processes."""
    cores = os.cpu_count() or 1
    for part, count, environment in _parts(climbs, workers):
        threads = max(cores // count, 1)
        for asked, figures in run_in_workers(_climb, part, count, threads, (WorkerPlace(environment),)):
            if isinstance(figures, dict):
                yield figures
                continue
            what = f"parity of {asked.model} on {asked.task} ({asked.size}, {asked.dtype})"
            if isinstance(figures, WorkerDied):
                raise AnatoBenchError(
                    f"{what}: its process died (exit code {figures.exit_code}; -9 is usually too little memory)"
                )
            raise AnatoBenchError(f"{what}: {figures}")


def _parts(climbs: Sequence[Climb], workers: int) -> Iterator[tuple[list[Climb], int, dict[str, str]]]:
    """Climbs that run together, in how many processes, and the environment of these."""
    quick = KEEP_MEMORY | _with_xla_flag(QUICK_COMPILATION)
    full = [asked for asked in climbs if asked.size == "full"]
    small = [asked for asked in climbs if asked.size != "full"]
    compiling = [a for a in small if a.dtype == "float64" and card_of(a.model).compiles_long and not visible_gpus()]
    yield [asked for asked in full if asked.backward], 1, KEEP_MEMORY
    yield [asked for asked in full if not asked.backward], min(workers, 2), KEEP_MEMORY
    yield compiling, workers, quick
    yield [asked for asked in small if asked not in compiling], workers, KEEP_MEMORY


def _with_xla_flag(flag: str) -> dict[str, str]:
    """Beside the flags that the caller has set, which come last and win."""
    return {"XLA_FLAGS": f"{flag} {os.environ.get('XLA_FLAGS', '')}".strip()}


def _climb(asked: Climb) -> dict[str, Any] | str:
    """Return the figures, or what went wrong: a worker may not raise."""
    try:
        return climb(asked)
    except AnatoBenchError as error:
        return str(error)
