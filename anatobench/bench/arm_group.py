"""Several processes that are one arm: data parallelism over the GPUs of a machine, asked through one pair of pipes.

Every request goes to all of them. The answer is the first one's with the slowest's times and the largest's memory.
Where one fails or dies the others would wait for it, so they are ended, and its failure is the answer from then on.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from anatobench.bench.energy import Spent, spent_together
from anatobench.bench.local_processes import pin, place, shared_environment
from anatobench.system.worker_pool import usable_cores

SECONDS_TO_END = 5.0
SECONDS_FOR_THE_CAUSE = 1.0
"""After a failure: others may tell one, too, and the first to be heard need not be its cause."""
MEMBER = "member"
"""In a request: the process is one of several and finds its place in its environment."""
LARGEST = ("build_s", "compile_s", "held_bytes", "peak_memory_bytes", "reserved_memory_bytes")
LARGEST_OF_EACH = ("seconds", "warm_up_s")
SMALLEST = ("matrix_product_flops",)
EQUAL = ("batch_digest",)

Answer = dict[str, Any]


class Group:
    """`count` processes that run `words`, alive until the context closes."""

    def __init__(self, count: int, words: Sequence[str]) -> None:
        threads = max(1, usable_cores() // count)
        environment = shared_environment(count, threads)
        self._failure: Answer | None = None
        self._received = [b""] * count
        self._members: list[subprocess.Popen[bytes]] = []
        for index in range(count):
            member = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env={**environment, **place(index)}
            )
            self._members.append(member)
            pin(member.pid, index, threads)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end(0 if any(exception) else SECONDS_TO_END)

    def answer(self, request: Mapping[str, Any]) -> Answer:
        """Ask all of them; one answer."""
        if self._failure is not None:
            return self._failure
        line = json.dumps({**request, MEMBER: True}).encode() + b"\n"
        for member in self._members:
            with suppress(OSError):  # who is gone is found below
                _pipe(member.stdin).write(line)
        answers = self._hear()
        self._failure = _failure(answers) or _disagreement(answers)
        if self._failure is None:
            return merged(answers)
        self._end(0)
        return self._failure

    def _hear(self) -> list[Answer | None]:
        """Return every member's answer; None of those that were not heard before one failed."""
        answers: list[Answer | None] = [None] * len(self._members)
        deadline: float | None = None
        while waited_for := [index for index, answer in enumerate(answers) if answer is None]:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            pipes = {_pipe(self._members[index].stdout).fileno(): index for index in waited_for}
            ready = select.select(list(pipes), [], [], left)[0]
            if not ready:
                return answers
            for pipe in ready:
                index = pipes[pipe]
                answers[index] = self._receive(index, pipe)
                if "error" in (answers[index] or {}) and deadline is None:
                    deadline = time.monotonic() + SECONDS_FOR_THE_CAUSE
        return answers

    def _receive(self, index: int, pipe: int) -> Answer | None:
        """Return the answer if all of it is there."""
        content = os.read(pipe, 1 << 16)
        if not content:
            status = self._members[index].wait()
            return {"error": f"its process died (exit status {status})", "out_of_memory": status == -9, "died": True}
        self._received[index] += content
        line, newline, rest = self._received[index].partition(b"\n")
        if not newline:
            return None
        self._received[index] = rest
        answer: Answer = json.loads(line)
        return answer

    def _end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for member in self._members:
            with suppress(OSError):
                _pipe(member.stdin).close()
        for member in self._members:
            try:
                member.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
            _pipe(member.stdout).close()


def merged(answers: Sequence[Answer | None]) -> Answer:
    """Return what is said of all of them together."""
    every = [answer for answer in answers if answer is not None]
    found = dict(every[0])
    for name in set(found) & {*LARGEST, *SMALLEST}:
        values = [answer[name] for answer in every]
        if None not in values:
            found[name] = min(values) if name in SMALLEST else max(values)
    for name in set(found) & set(LARGEST_OF_EACH):
        found[name] = [max(values) for values in zip(*(answer[name] for answer in every), strict=True)]
    if "spent" in found:
        found["spent"] = asdict(spent_together([Spent(**answer["spent"]) for answer in every]))
    return found


def _failure(answers: Sequence[Answer | None]) -> Answer | None:
    """Return the likeliest cause: who died, then who lacked memory, then the first."""
    failures = [(index, answer) for index, answer in enumerate(answers) if answer is not None and "error" in answer]
    if not failures:
        return None
    index, cause = min(failures, key=lambda one: (not one[1].get("died"), not one[1]["out_of_memory"], one[0]))
    said = f"process {index} of {len(answers)}: {cause['error']}"
    return {"error": said, "out_of_memory": cause["out_of_memory"]}


def _disagreement(answers: Sequence[Answer | None]) -> Answer | None:
    for name in EQUAL:
        if len({answer.get(name) for answer in answers if answer is not None}) > 1:
            return {"error": f"the processes have different values of {name}", "out_of_memory": False}
    return None


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
