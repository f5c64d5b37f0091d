"""Chains of `anatobench` commands in processes of their own, several chains at a time."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.system.command_line import shown
from anatobench.system.parent import child_environment
from anatobench.system.signals import Interrupted
from anatobench.system.worker_pool import NATIVE_THREAD_VARIABLES

Command = list[str]
"""The words after `anatobench`."""
POLL_SECONDS = 0.1
SECONDS_TO_SAVE = 120.0
"""What a run that is told to stop may take to save its checkpoint."""


def run_command(words: Command, capture: bool = False) -> str | None:
    """Run one command in this process's own session and wait for it: what it printed, or None if it failed.

    Left by an exception, it is told to stop as this process was, and has the time to save and to end its own children:
    killed at once it would leave them behind.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "anatobench", *words],
        stdout=subprocess.PIPE if capture else sys.stderr,
        text=True,
        env=child_environment(),
    )
    try:
        printed, _ = process.communicate()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) or isinstance(error, Interrupted):  # Ctrl-C has reached it, too
            _tell_to_stop(process)
        _await_end(process, SECONDS_TO_SAVE)
        raise
    return (printed or "") if process.returncode == 0 else None


def _tell_to_stop(process: subprocess.Popen[Any]) -> None:
    """Ask it to stop: a training run then saves a checkpoint."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


def _await_end(process: subprocess.Popen[Any], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Chain:
    """Commands that need each other, in order."""

    name: str
    commands: list[Command]


class _Running:
    """A chain at work; what its commands say goes into a log file."""

    def __init__(self, chain: Chain, log: Path, environment: Mapping[str, str]) -> None:
        self.chain, self.log = chain, log
        self._environment = environment
        self._waiting = list(chain.commands)
        self._start_next()

    def _start_next(self) -> None:
        self.command = self._waiting.pop(0)
        with self.log.open("ab") as file:
            file.write(f"$ {shown(*self.command)}\n".encode())
            file.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anatobench", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=child_environment(self._environment),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops each child once
            )

    def advance(self) -> bool:
        """Return whether the whole chain is done. `AnatoBenchError` if one of its commands failed."""
        status = self.process.poll()
        if status is None:
            return False
        if status != 0:
            said = [line for line in self.log.read_text(errors="replace").replace("\r", "\n").splitlines() if line]
            raise AnatoBenchError(f"{self.chain.name}: {said[-1] if said else ''} (exit {status}; see {self.log})")
        if self._waiting:
            self._start_next()
            return False
        return True


class OutOfTimeError(AnatoBenchError):
    """The time that was given is over; what was at work has saved its state."""


def run_chains(
    chains: Sequence[Chain],
    logs: Path,
    workers: int,
    begun: Callable[[Chain, Path], None] | None = None,
    until: float = math.inf,
) -> Iterator[Chain]:
    """Yield every chain when it is done; `begun` is told of each that is begun, and which file has what it says.
    `OutOfTimeError` if something is left to do when `time.monotonic()` has passed `until`.

    The first failure stops the rest and is raised as `AnatoBenchError`; so does leaving the iterator. The cores are
    shared out evenly, and JAX keeps compiled programs beside the logs, unless the environment names another place.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(chains), list[_Running]()
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    cache = {"JAX_COMPILATION_CACHE_DIR": str((logs / "jax_programs").resolve())}
    environment = {**cache, **os.environ, **dict.fromkeys(NATIVE_THREAD_VARIABLES, threads)}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                chain = waiting.pop(0)
                name = "".join(letter if letter.isalnum() else "_" for letter in chain.name)
                running.append(_Running(chain, logs / f"{name}.log", environment))
                if begun is not None:
                    begun(chain, running[-1].log)
            for current in list(running):
                if current.advance():
                    running.remove(current)
                    yield current.chain
            if (waiting or running) and time.monotonic() > until:
                behind = running[0].chain if running else waiting[0]
                raise OutOfTimeError(f"out of time before {behind.name} was done")
            time.sleep(POLL_SECONDS)
    finally:
        for current in running:
            _tell_to_stop(current.process)
        deadline = time.monotonic() + SECONDS_TO_SAVE
        for current in running:
            _await_end(current.process, max(deadline - time.monotonic(), 1.0))
