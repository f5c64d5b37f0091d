"""Whether a measurement had its machine for itself: what else used processor and GPU."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anatobench.bench.rounds import processor_seconds
from anatobench.system.gpus import visible_gpus
from anatobench.system.host import output_of

BUSY_SHARE, BUSY_CORES = 0.1, 0.5
"""Others' work beyond this share of the cores, and beyond so much of one, disturbs."""
IDLE_UTILISATION = 5.0
"""Percent."""
IDLE_MEMORY = 1024.0
"""MiB that a GPU's driver may hold while nobody uses it."""


class OtherWork:
    """Counts what the processor does besides this process and its children, from here until `cores` is asked."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Cores that others kept busy on average; None where the system does not tell. Call it when the children have
        ended: what a living child uses is not known to be ours."""
        start, now = self._start, self._now()
        if start is None or now is None:
            return None
        seconds, machine, own = (after - before for before, after in zip(start, now, strict=True))
        return max(machine - own, 0.0) / max(seconds, 1e-3)

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, stat.read_text().split()[1:9])
        busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, processor_seconds()


def gpu_use(count: int = 1, command: str = "nvidia-smi") -> dict[str, float] | None:
    """Return, of the first `count` GPUs that CUDA shows this process, at this moment: `processes` on all of them,
    `utilisation_percent` and `memory_mib` of the busiest.

    To be asked before anything of one's own begins; None without a GPU. (In a container, others' processes are not
    listed everywhere; their memory is.)
    """
    gpus = visible_gpus()
    if not gpus:
        return None
    base = [command, "--format=csv,noheader,nounits", "-i", ",".join(gpus[:count])]
    processes = output_of([*base, "--query-compute-apps=pid"])
    use = output_of([*base, "--query-gpu=utilization.gpu,memory.used"])
    if processes is None or use is None:
        return None
    try:
        rows = [[float(cell) for cell in line.split(",")] for line in use.splitlines()]
        utilisation, memory = (max(column) for column in zip(*rows, strict=True))
    except ValueError:  # "[N/A]"
        return None
    return {
        "processes": len([line for line in processes.splitlines() if line.strip().isdecimal()]),
        "utilisation_percent": utilisation,
        "memory_mib": memory,
    }


def disturbances(machine: Mapping[str, Any]) -> Iterator[str]:
    """Yield one clause for each thing that makes a record's figures doubtful, from its `machine`."""
    others, cores = machine.get("other_cores"), machine["cores"]
    if others is not None and others > max(BUSY_SHARE * cores, BUSY_CORES):
        yield f"other programs kept {others:.1f} of {cores} cores busy"
    before = machine.get("gpu_before") or {}
    if before.get("processes"):
        yield f"{before['processes']:.0f} other process(es) held the GPU before the start"
    if before.get("utilisation_percent", 0) > IDLE_UTILISATION:
        yield f"the GPU was {before['utilisation_percent']:.0f} % busy before the start"
    if before.get("memory_mib", 0) > IDLE_MEMORY:
        yield f"{before['memory_mib']:.0f} MiB of the GPU's memory were taken before the start"
    if reasons := (machine.get("gpu") or {}).get("throttle_reasons"):
        yield f"the GPU slowed its clock ({', '.join(reasons)})"


def busy_before(machine: Mapping[str, Any]) -> Iterator[str]:
    """Yield the same for the load average at the start, where nothing of one's own ran in the minute before."""
    if machine["load_1m"] > max(BUSY_SHARE * machine["cores"], BUSY_CORES):
        yield f"the load was {machine['load_1m']:.1f} on {machine['cores']} cores before the start"


def warn_if_busy(machine: Mapping[str, Any]) -> None:
    """Say on stderr, as a measurement begins, what of `busy_before` is in its figures."""
    for clause in busy_before(machine):
        print(f"warning: {clause}: what others do there is in the figures", file=sys.stderr)
