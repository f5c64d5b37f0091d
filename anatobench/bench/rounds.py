"""Contestants measured in turns, round after round, so that a busy machine slows all of them alike."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from anatobench.bench.intervals import median_interval, paired_ratio


class Closable(Protocol):
    """What has to be put away."""

    def close(self) -> object: ...


@dataclass(frozen=True)
class Rounds:
    """What one contestant needed."""

    wall_s: np.ndarray
    """float64 [rounds]"""
    cpu_s: np.ndarray
    """float64 [rounds], of all threads of this process and of child processes that ended."""


def measure_in_turns(
    contestants: Mapping[str, Callable[[], Closable | None]], rounds: int, done: Callable[[], object] = lambda: None
) -> dict[str, Rounds]:
    """Call each contestant once per round; a first round fills caches and is not counted. `done` follows each round.

    If a contestant returns something to close, that is closed after the clock was stopped.
    """
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, rounds):
        for name, contestant in contestants.items():
            began, cpu_began = time.perf_counter(), processor_seconds()
            left_open = contestant()
            wall_s, cpu_s = time.perf_counter() - began, processor_seconds() - cpu_began
            if left_open is not None:
                left_open.close()
            if number >= 0:
                wall[name].append(wall_s)
                cpu[name].append(cpu_s)
        done()
    return {name: Rounds(np.array(wall[name]), np.array(cpu[name])) for name in contestants}


def median_with_interval(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """`median` of values [rounds] and its bootstrap 95 % interval over rounds, `ci95`, in their unit."""
    samples = np.asarray(values, np.float64)
    return {"median": float(np.median(samples)), "ci95": list(median_interval(samples))}


def ratio_with_interval(
    numerator: Sequence[float] | np.ndarray, denominator: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """`ratio` of the medians of two measurements [rounds] and its bootstrap 95 % interval, `ci95`; both sides of a
    round stay together."""
    found = paired_ratio(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return {"ratio": found.value, "ci95": [found.low, found.high]}


def rates(rounds: Rounds, volumes: int) -> dict[str, Any]:
    """Volumes per second of the wall clock, `volumes_per_s`, and of processor time, with intervals over rounds."""
    total = median_with_interval(volumes / rounds.wall_s)
    core = median_with_interval(volumes / np.maximum(rounds.cpu_s, 1e-9))
    return {
        "volumes_per_s": total["median"],
        "volumes_per_s_ci95": total["ci95"],
        "volumes_per_s_per_core": core["median"],
        "volumes_per_s_per_core_ci95": core["ci95"],
    }


def processor_seconds() -> float:
    """Processor time of this process and of the child processes that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
