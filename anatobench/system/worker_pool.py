"""Worker processes that may die without taking the others' work with them.

`concurrent.futures` gives up the whole pool when the system kills one worker (out of memory, a crash in native code)
and does not say whose job it was. Here each worker has its own pipe and one job at a time, so the job is known, the
worker is replaced, and memory is bounded by one job per worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from anatobench.errors import AnatoBenchError
from anatobench.system.parent import signal_at_parents_end

Job = TypeVar("Job")
Result = TypeVar("Result")

NATIVE_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def usable_cores() -> int:
    """Cores that this process may use; Slurm and containers often give it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the worker was gone before it had one, twice, the second time with nothing beside it."""

    exit_code: int | None
    """As `multiprocessing.Process.exitcode`: -9 was killed by signal 9."""


@dataclass(frozen=True)
class TimedOut:
    """In place of a result: the job's time was over, and its worker was ended."""

    seconds: float


@dataclass(frozen=True)
class WorkerPlace:
    """What is particular about one worker."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Set before it starts, for instance which GPU it sees."""
    starts_processes: bool = False
    """Whether its function starts processes of its own; they are stopped with it."""


def run_in_workers(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    native_threads: int = 1,
    places: Sequence[WorkerPlace] = (WorkerPlace(),),
    time_limit: Callable[[Job], float] | None = None,
) -> Generator[tuple[Job, Result | WorkerDied | TimedOut], None, None]:
    """Yield each job with its result, in the order they finish; a worker's numerical libraries use `native_threads`.

    `function` must be importable, and must not raise: a worker that raises prints its traceback and dies. With
    `workers` 0 the jobs run in this process, one after the other. Worker n takes place n of `places`, which repeat;
    one that replaces it takes the same. `time_limit` gives the seconds that a job may take in a worker. Leaving the
    iterator early (an interrupt, an error, `close`) kills the workers at once.
    """
    if workers == 0:
        for job in jobs:
            yield job, function(job)
        return
    suspects: list[Job] = []
    taken = [places[number % len(places)] for number in range(min(workers, len(jobs)))]
    for job, result in _run(function, jobs, taken, native_threads, time_limit):
        if isinstance(result, WorkerDied):
            suspects.append(job)  # perhaps it was another job's memory that was too much
        else:
            yield job, result
    for job in suspects:
        yield from _run(function, [job], taken[:1], native_threads, time_limit)


class _Worker:
    """A process that turns jobs into results, one at a time. It says once that it is ready."""

    def __init__(self, function: Callable[[Any], Any], place: WorkerPlace, native_threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.jobs: list[Any] = []
        """The job it has, if it has one."""
        self.deadline = float("inf")
        """On the monotonic clock, of that job."""
        self.place = place
        daemon = not place.starts_processes  # a daemon must not have children
        self._process = context.Process(target=_serve, args=(function, remote, place.starts_processes), daemon=daemon)
        threads = dict.fromkeys(NATIVE_THREAD_VARIABLES, str(native_threads))
        with _environment({**threads, **place.environment}), _interrupts_held():
            self._process.start()
        remote.close()  # so that the worker's death closes the pipe

    def give(self, job: Any, seconds: float) -> None:
        self.jobs.append(job)
        self.deadline = time.monotonic() + seconds
        with suppress(ConnectionError):  # it died since: `receive` says so
            self.connection.send(job)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return WorkerDied(self._process.exitcode)

    def stop(self) -> None:
        if self.place.starts_processes and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # its group is empty, or not there yet
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.connection.close()


def _run(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    places: Sequence[WorkerPlace],
    native_threads: int,
    time_limit: Callable[[Job], float] | None,
) -> Iterator[tuple[Job, Result | WorkerDied | TimedOut]]:
    waiting = deque(jobs)
    workers: dict[Any, _Worker] = {}

    def start_worker(place: WorkerPlace) -> None:
        worker = _Worker(function, place, native_threads)
        workers[worker.connection] = worker

    try:
        for place in places:
            start_worker(place)
        while workers:
            first = min(worker.deadline for worker in workers.values())
            patience = None if first == float("inf") else max(0.0, first - time.monotonic())
            ready: list[Any] = list(wait(list(workers), patience))
            late = [c for c, worker in workers.items() if c not in ready and worker.deadline <= time.monotonic()]
            for connection in (*ready, *late):
                worker = workers[connection]
                allowed = time_limit(worker.jobs[0]) if connection in late and time_limit else 0.0
                result = TimedOut(allowed) if connection in late else worker.receive()
                died = isinstance(result, (WorkerDied, TimedOut))
                worker.deadline = float("inf")
                if isinstance(result, WorkerDied) and not worker.jobs:
                    raise AnatoBenchError(f"worker processes do not start (exit code {result.exit_code})")
                done = list(worker.jobs)
                worker.jobs.clear()
                if waiting and not died:
                    coming = waiting.popleft()
                    worker.give(coming, time_limit(coming) if time_limit else float("inf"))
                else:
                    workers.pop(connection).stop()
                    if waiting:
                        start_worker(worker.place)
                for job in done:
                    yield job, result
    finally:
        for worker in workers.values():
            worker.stop()


def _serve(function: Callable[[Any], Any], connection: Connection, own_group: bool) -> None:
    if own_group:
        os.setpgid(0, 0)  # so that `stop` reaches the processes that the function starts
    _end_with_parent(own_group)
    with suppress(EOFError, ConnectionError):  # the parent is gone
        connection.send(None)
        while True:
            connection.send(function(connection.recv()))


def _end_with_parent(own_group: bool) -> None:
    """End with the parent: one that is killed cannot stop its workers, so they see to it themselves, wherever they
    are in their job."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if not own_group:
        signal_at_parents_end(signal.SIGKILL)

    def watch() -> None:
        wait([parent.sentinel])
        if own_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set, for a process that is started meanwhile, what its libraries read when it begins."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C from a process started now: its parent sees it, and stops the process."""
    resource_tracker.ensure_running()  # starting a process would start it first, and that unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
