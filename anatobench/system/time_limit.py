"""How long reading one case may take: a damaged file can keep a decoder busy for ever, and nobody would know which.

Two nets, because Python's own loops can be interrupted and a decoder's cannot: an alarm in the process that reads, and
the worker pool, which ends a worker that has been at one job for too long (`run_in_workers(..., time_limit=...)`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from anatobench.errors import CaseError, UsageError

VARIABLE = "ANATOBENCH_READING_SECONDS"
"""Environment variable: seconds for a small case instead of `SECONDS`."""
SECONDS = 60.0
MOST_BUSY = 20.0
"""A machine with more to do than cores gets up to so many times as long, unless `VARIABLE` says how long."""
SECONDS_PER_MB = 2.0
"""Of the size on disk: fifty times what a scan takes, for file systems that many share."""
GRACE = 2.0
"""The pool waits so many times longer than the alarm, which can say more."""


class _OutOfTime(KeyboardInterrupt):
    """An interrupt, so that nothing on the way takes it for a damaged file."""


def reading_seconds(*paths: Path | None) -> float:
    """Return what reading these files, or folders of files, may take."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS * _busy()
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{VARIABLE}={text!r} in the environment: not a number of seconds above 0")
    return seconds + SECONDS_PER_MB * sum(_size(path) for path in paths if path is not None) / 1e6


def _busy() -> float:
    """Return how many processes want each core of this machine, 1 at least."""
    try:
        waiting = os.getloadavg()[0]
    except OSError:
        return 1.0
    return min(max(waiting / (os.cpu_count() or 1), 1.0), MOST_BUSY)


def _size(path: Path) -> int:
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
    except OSError:  # its reader says why
        return 0


@contextmanager
def reading_time_limited(path: Path) -> Iterator[None]:
    """While this context is open, reading may take `reading_seconds(path)`; after that it is a `CaseError`.

    Only a process's main thread can be interrupted; in another one, and where an outer limit runs, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    seconds = reading_seconds(path)

    def ring(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OutOfTime:
        raise too_slow(path, seconds) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def too_slow(path: Path, seconds: float) -> CaseError:
    """Return what is said of a case that was given up."""
    return CaseError(
        "time-limit",
        f"{path}: reading it was given up after {seconds:.0f} s: a damaged file, or a slow disk (set {VARIABLE})",
    )
