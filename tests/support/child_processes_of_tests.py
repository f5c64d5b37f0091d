"""Processes that tests start and that know of each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from forked_python import ForkedPython

Process = subprocess.Popen[str] | ForkedPython


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def without_places() -> dict[str, str]:
    """Return the environment without what a launcher may have set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "ANATOBENCH_TIMEOUT": "120"}


def by_torchrun(words: Sequence[str], *how: str) -> subprocess.Popen[str]:
    """Begin an agent of torchrun's that starts `words`."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *how, *words],
        env=without_places(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def together(words: Sequence[str], count: int, **environment: str) -> list[ForkedPython]:
    """Begin the same in `count` processes that know of each other."""
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()),
              **environment}  # fmt: skip
    return [ForkedPython(words, {**shared, "RANK": str(index), "LOCAL_RANK": str(index)}) for index in range(count)]


def finish(processes: Sequence[Process], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each; none is left behind."""
    deadline = time.monotonic() + timeout
    try:
        ended = [process.communicate(timeout=max(deadline - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.wait(), *said) for process, said in zip(processes, ended, strict=True)]
