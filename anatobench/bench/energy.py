"""What a training step costs in energy: by the GPU's own counter, or by its power while the step ran.

NVML counts what a GPU has used since its driver was loaded (`nvmlDeviceGetTotalEnergyConsumption`, in mJ, since
Volta). The process that computes reads it before and after its timed steps. Where there is no counter, the power that
`nvidia-smi` told meanwhile is integrated over those steps; it is an average over up to a second, so short steps of two
arms in turns blur into each other. Both are of the whole board of each process's GPU, all added up; nothing is claimed
where one of them is not known. Nothing else in the node counts.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anatobench.bench.gpu_watch import PowerSamples
from anatobench.bench.intervals import mean_interval
from anatobench.system.gpus import visible_gpus

LIBRARY_VARIABLE = "ANATOBENCH_NVML"
"""Environment variable: another file than the driver's own NVML."""
LIBRARY = "libnvidia-ml.so.1"
COUNTER, SAMPLES = "NVML counter", "power samples"
FEWEST_TURNS = 2
"""With one there is no interval."""


@dataclass(frozen=True)
class Spent:
    """What one turn's timed steps took."""

    began: float
    ended: float
    """Seconds since the epoch, as `nvidia-smi` stamps its samples."""
    joules: float | None
    """By the counter; None without one."""
    steps: int


def energy_counter(local_index: int = 0) -> Callable[[], float | None]:
    """Return what reads the counter of this process's GPU, the one of `local_index` among those shown, in joules; it
    gives None where there is none."""
    gpus = visible_gpus()[local_index:]
    try:
        nvml = ctypes.CDLL(os.environ.get(LIBRARY_VARIABLE) or LIBRARY) if gpus else None
        if nvml is None or nvml.nvmlInit_v2():
            return lambda: None
        device = ctypes.c_void_p()
        if gpus[0].isdecimal():
            failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(gpus[0])), ctypes.byref(device))
        else:
            failed = nvml.nvmlDeviceGetHandleByUUID(gpus[0].encode(), ctypes.byref(device))
        read = nvml.nvmlDeviceGetTotalEnergyConsumption
    except (OSError, AttributeError):  # no driver, or one that has no such counter
        return lambda: None

    def joules() -> float | None:
        millijoules = ctypes.c_ulonglong()
        if failed or read(device, ctypes.byref(millijoules)):
            return None
        return millijoules.value / 1000

    return joules


def spent_together(parts: Sequence[Spent]) -> Spent:
    """Return what the processes of one turn took; no joules if those of any are not known."""
    joules = [part.joules for part in parts]
    return Spent(
        min(part.began for part in parts),
        max(part.ended for part in parts),
        _of_all(joules),
        parts[0].steps,
    )


def energy_record(turns: Sequence[Spent], power: Sequence[PowerSamples], batch_size: int) -> dict[str, Any] | None:
    """Return joules per step and per case with 95 % intervals over turns, and where they come from; None if nobody
    knows.

    `power` is of each GPU that the turns used; a turn that the samples of any of them do not enclose, the last one
    often, is left out.
    """
    source, found = COUNTER, [turn.joules for turn in turns]
    if None in found:
        source, found = SAMPLES, [_of_all([_integral(turn, one) for one in power]) for turn in turns]
    known = [(turn, joules) for turn, joules in zip(turns, found, strict=True) if joules is not None]
    if len(known) < FEWEST_TURNS:
        return None
    per_step = np.array([joules / turn.steps for turn, joules in known])
    low, high = mean_interval(per_step)
    return {
        "source": source,
        "joules_per_step": float(per_step.mean()),
        "ci95_per_step": [low, high],
        "joules_per_case": float(per_step.mean()) / batch_size,
        "ci95_per_case": [low / batch_size, high / batch_size],
        "watts": sum(joules for _, joules in known) / sum(turn.ended - turn.began for turn, _ in known),
        "turns": len(known),
    }


def _of_all(joules: Sequence[float | None]) -> float | None:
    """Return the sum; None if there are none or one of them is not known."""
    known = [one for one in joules if one is not None]
    return sum(known) if known and len(known) == len(joules) else None


def _integral(turn: Spent, power: PowerSamples) -> float | None:
    """Joules between two moments, the power between samples being a straight line; None if they are not covered."""
    at, watts = np.asarray(power.times, np.float64), np.asarray(power.watts, np.float64)
    known = ~np.isnan(watts)
    at, watts = at[known], watts[known]
    if len(at) < 2 or turn.began < at[0] or turn.ended > at[-1]:
        return None
    inside = at[(at > turn.began) & (at < turn.ended)]
    moments = np.concatenate([[turn.began], inside, [turn.ended]])
    return float(np.trapezoid(np.interp(moments, at, watts), moments))


def in_words(record: dict[str, Any] | None) -> str:
    """Return it for a table's row; empty where nothing is known."""
    if record is None:
        return ""
    low, high = record["ci95_per_case"]
    return (
        f"{record['joules_per_step']:.1f} J/step, {record['joules_per_case']:.1f} J/case [{low:.1f}, {high:.1f}] "
        f"({record['source']})"
    )
