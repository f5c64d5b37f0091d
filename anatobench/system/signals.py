"""Being asked to stop: by Ctrl-C, by the cluster's time limit (SIGUSR1, SIGTERM), by an administrator (SIGTERM), or by
the end of the session whose terminal started the work (SIGHUP)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STDERR = 2
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Work ends early because someone asked for it; nothing is lost. The command line exits with 130."""


def _heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return all signals, but not SIGHUP under `nohup`, which means that the work is to go on."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in numbers if not (ignored and number is signal.SIGHUP)]


class StopSignals:
    """While this context is open, a signal to stop is only remembered, however often it comes; a second Ctrl-C kills.

    A cluster sends the same wish more than once (SIGUSR1 from the job script and from Slurm, then SIGTERM): the process
    must live to save. A person who presses Ctrl-C again does not want to wait for that. Python gives signals to the
    main thread alone: in any other this context hears none.
    """

    def __init__(self, announced: str = "") -> None:
        """`announced` is said on stderr when the first signal comes, by its name: the work may take long to stop."""
        self._announced = announced
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        for number in _heeded(STOPPING) if threading.current_thread() is threading.main_thread() else ():
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def received(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    def check(self) -> None:
        """Raise `Interrupted` if a signal came; to be called wherever it is safe to stop."""
        if self._received is not None:
            raise Interrupted(f"stopped by {self._received.name}")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._received is None:
            self._received = signal.Signals(number)
            if self._announced:
                self._announce(f"{self._received.name}: {self._announced}")

    def _announce(self, sentence: str) -> None:
        """Write past `sys.stderr`, in whose buffer the signal may have come."""
        with suppress(OSError):  # nobody may be listening any more
            below_the_bar = "\n" if os.isatty(STDERR) else ""
            os.write(STDERR, f"{below_the_bar}{sentence}\n".encode())


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """While this context is open, SIGTERM, SIGUSR1 and SIGHUP raise `Interrupted` instead of ending the process at
    once: what stands in `finally` is done, and child processes are ended. A handler that is there already stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [one for one in _heeded(STOPPING) if signal.getsignal(one) == signal.SIG_DFL]  # Ctrl-C has Python's own

    def end(number: int, frame: FrameType | None) -> None:
        if isinstance(sys.exception(), KeyboardInterrupt):
            return  # already on the way out: a second wish must not take the place of what is said of the first
        for one in ending:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    for one in ending:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in ending:
            signal.signal(one, signal.SIG_DFL)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """While this context is open, a signal to stop raises `Interrupted` at once, and those after it change nothing.

    For work that may end anywhere: what waits for other processes would not see a signal that is only remembered.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in STOPPING:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    previous = {number: signal.signal(number, interrupt) for number in _heeded(STOPPING)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
