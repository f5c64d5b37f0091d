"""Processes that tests start and that know of each other."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence

from forked_python import ForkedPython

Process = subprocess.Popen[str] | ForkedPython


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def finish(processes: Sequence[Process], timeout: float = 300) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each; none is left behind."""
    deadline = time.monotonic() + timeout
    try:
        ended = [process.communicate(timeout=max(deadline - time.monotonic(), 0.1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.wait(), *said) for process, said in zip(processes, ended, strict=True)]
