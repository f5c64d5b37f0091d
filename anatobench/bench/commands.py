"""`anatobench` commands that a measurement runs: each in a process group of its own, several at a time, with an end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from anatobench.bench.arms import XLA_MEMORY
from anatobench.system.device_memory import OUT_OF_MEMORY_WORDS
from anatobench.system.parent import child_environment

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """A command that waits for its turn."""

    name: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what this process has."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    record: dict[str, Any] | None
    """What it printed on its last line, as a red gate and a benchmark with an arm that failed do, too."""
    error: str | None
    """None if it exited with 0."""
    seconds: float
    timed_out: bool = False

    @property
    def out_of_memory(self) -> bool:
        """Whether memory was what it lacked."""
        failed = (self.record or {}).get("failed") or {}
        return any(failure["out_of_memory"] for failure in failed.values()) or any(
            word in (self.error or "") for word in OUT_OF_MEMORY_WORDS
        )


class Command:
    """`anatobench WORDS` at work; `folder` is made for what it prints."""

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir()
        self.job, self._began = job, time.monotonic()
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "anatobench", *job.words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=child_environment({**XLA_MEMORY, **os.environ, **job.environment}),
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it is not done."""
        return self._process.poll() is None

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def stop(self, late: str | None = None) -> Outcome:
        """End it, with its children, if it runs; `late` is then the reason to give."""
        status = self._process.poll()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        seconds = round(self.age, 1)
        try:
            record = json.loads(self._out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            record = None
        if status == 0:
            return Outcome(record, None, seconds)
        if status is None:
            return Outcome(record, late or "stopped", seconds, timed_out=True)
        return Outcome(record, self._reason(record, status), seconds)

    def _reason(self, record: dict[str, Any] | None, status: int) -> str:
        failed = (record or {}).get("failed") or {}
        if failed:
            return "; ".join(f"{name}: {failure['error']}" for name, failure in failed.items())[:400]
        said = self._err.read_text(errors="replace").replace("\r", "\n").splitlines()
        last = next((line for line in reversed(said) if line.strip()), "")
        return f"exit status {status}: {last}"[:400]


def run_command(job: Job, seconds: float) -> Outcome:
    """To its end, or for so long."""
    return run_jobs([job], 1, seconds)[job.name]


def run_jobs(
    jobs: Sequence[Job],
    places: int,
    seconds: float,
    done: Callable[[str, Outcome], object] = lambda name, outcome: None,
) -> dict[str, Outcome]:
    """Run jobs in order, `places` at a time, for at most so long; what was not begun by then is missing in the result.

    No job holds up the others: one that takes longer than its share of the time (`seconds` of all places, split evenly)
    keeps running, but another begins beside it, until twice as many run as there are places. If others wait then, what
    has taken half of the time ends. One that lacked memory while others ran is tried once more, alone, after them.
    `done` follows each.
    """
    start = time.monotonic()
    share, most = seconds * places / max(len(jobs), 1), 2 * places
    waiting, running, numbers = list(jobs), list[Command](), count()
    lacking: dict[str, Outcome] = {}
    outcomes: dict[str, Outcome] = {}

    def end(command: Command, late: str | None = None) -> None:
        beside = len(running) > 1
        running.remove(command)
        name, outcome = command.job.name, command.stop(late)
        if beside and outcome.out_of_memory and name not in lacking:
            lacking[name] = outcome
            waiting.append(command.job)
            return
        outcomes[name] = outcome
        done(name, outcome)

    with tempfile.TemporaryDirectory(prefix="anatobench-commands-") as folder:
        try:
            while (waiting or running) and time.monotonic() < start + seconds:
                for command in [command for command in running if not command.running]:
                    end(command)
                late = [command for command in running if command.age > share]
                if waiting and len(running) >= most and running[0].age > seconds / 2:
                    end(running[0], f"stopped after {running[0].age:.0f} s, because others waited")
                # What lacked memory waits until it is alone.
                elif waiting and len(running) < (1 if waiting[0].name in lacking else min(places + len(late), most)):
                    running.append(Command(waiting.pop(0), Path(folder) / str(next(numbers))))
                    continue
                time.sleep(POLL_SECONDS)
            for command in list(running):
                end(command, f"stopped after {command.age:.0f} s: the time was up")
        finally:
            for command in running:
                command.stop()
    for job in waiting:
        if job.name in lacking:
            outcomes[job.name] = lacking[job.name]
            done(job.name, lacking[job.name])
    return outcomes
