"""Processes on this machine that compute together: what each must know of the others, and the cores it may use."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from anatobench.system.gpus import visible_gpus
from anatobench.system.worker_pool import NATIVE_THREAD_VARIABLES

LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
"""How the variables begin of those who may have started this process, and who know nothing of its children."""


def shared_environment(count: int, threads: int) -> dict[str, str]:
    """Return what all `count` of them find in their environment; `place` has the rest."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)},
        **dict.fromkeys(NATIVE_THREAD_VARIABLES, str(threads)),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(_free_port()),
    }


def place(index: int) -> Mapping[str, str]:
    """Return what process `index` alone finds there."""
    return {"RANK": str(index), "LOCAL_RANK": str(index)}


def pin(process: int, index: int, threads: int) -> None:
    """Give process `index`, of that id, cores of its own where it computes on them: XLA takes every core it sees,
    whatever the variables of other libraries say."""
    if not visible_gpus() and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, own_cores(index, threads))


def own_cores(index: int, threads: int) -> set[int]:
    """Cores of this process that its child `index` may use; children share them where there are not enough."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[(index * threads + offset) % len(cores)] for offset in range(threads)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
