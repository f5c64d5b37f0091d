"""Worker processes that may die without taking the others' work with them.

`concurrent.futures` gives up the whole pool when the system kills one worker (out of memory, a crash in native code)
and does not say whose job it was. Here each worker has its own pipe and one job at a time, so the job is known, the
worker is replaced, and memory is bounded by one job per worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from anatobench.errors import AnatoBenchError

Job = TypeVar("Job")
Result = TypeVar("Result")

NATIVE_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the worker was gone before it had one, twice, the second time with nothing beside it."""

    exit_code: int | None
    """As `multiprocessing.Process.exitcode`: -9 was killed by signal 9."""


def run_in_workers(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, native_threads: int = 1
) -> Iterator[tuple[Job, Result | WorkerDied]]:
    """Yield each job with its result, in the order they finish; a worker's numerical libraries use `native_threads`.

    `function` must be importable, and must not raise: a worker that raises prints its traceback and dies. With
    `workers` 0 the jobs run in this process, one after the other. Leaving the iterator early (an interrupt, an
    error, `close`) kills the workers at once.
    """
    if workers == 0:
        for job in jobs:
            yield job, function(job)
        return
    suspects: list[Job] = []
    for job, result in _run(function, jobs, min(workers, len(jobs)), native_threads):
        if isinstance(result, WorkerDied):
            suspects.append(job)  # perhaps it was another job's memory that was too much
        else:
            yield job, result
    for job in suspects:
        yield from _run(function, [job], 1, native_threads)


class _Worker:
    """A process that turns jobs into results, one at a time. It says once that it is ready."""

    def __init__(self, function: Callable[[Any], Any], native_threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.jobs: list[Any] = []
        """The job it has, if it has one."""
        self._process = context.Process(target=_serve, args=(function, remote), daemon=True)
        with _limited_threads(native_threads), _interrupts_held():
            self._process.start()
        remote.close()  # so that the worker's death closes the pipe

    def give(self, job: Any) -> None:
        self.jobs.append(job)
        with suppress(ConnectionError):  # it died since: `receive` says so
            self.connection.send(job)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return WorkerDied(self._process.exitcode)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _run(
    function: Callable[[Job], Result], jobs: Sequence[Job], count: int, native_threads: int
) -> Iterator[tuple[Job, Result | WorkerDied]]:
    waiting = deque(jobs)
    workers: dict[Any, _Worker] = {}

    def start_worker() -> None:
        worker = _Worker(function, native_threads)
        workers[worker.connection] = worker

    try:
        for _ in range(count):
            start_worker()
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                result = worker.receive()
                died = isinstance(result, WorkerDied)
                if died and not worker.jobs:
                    raise AnatoBenchError(f"worker processes do not start (exit code {result.exit_code})")
                done = list(worker.jobs)
                worker.jobs.clear()
                if waiting and not died:
                    worker.give(waiting.popleft())
                else:
                    workers.pop(connection).stop()
                    if waiting:
                        start_worker()
                for job in done:
                    yield job, result
    finally:
        for worker in workers.values():
            worker.stop()


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    with suppress(EOFError, ConnectionError):  # the parent is gone
        connection.send(None)
        while True:
            connection.send(function(connection.recv()))


@contextmanager
def _limited_threads(count: int) -> Iterator[None]:
    """For a worker's native libraries; the variables are read when a process starts."""
    before = {name: os.environ.get(name) for name in NATIVE_THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(NATIVE_THREAD_VARIABLES, str(count)))
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
    """A process started now never sees Ctrl-C: its parent does, and stops it."""
    resource_tracker.ensure_running()  # starting a process would start it first, and that unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
