"""A child process ends with its parent: one that is killed cannot stop its children, so they see to it themselves."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Mapping

PARENT_VARIABLE = "ANATOBENCH_PARENT"
"""Environment variable: the process that a child is to end with."""
_PR_SET_PDEATHSIG = 1


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `environment` for a process that is started from here, without another between, and calls
    `end_with_parent`.

    Linux tells of the end of the thread that started it, so only children of the main thread are told whose they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return dict(environment)
    return {**environment, PARENT_VARIABLE: str(os.getpid())}


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Send signal `number` to this process when the parent that started it with `child_environment` is gone, however it
    ended. To be called when a child begins; elsewhere than on Linux, and without such a parent, nothing happens."""
    parent = os.environ.pop(PARENT_VARIABLE, "")  # a child's own children are not the parent's
    if parent:
        signal_at_parents_end(number)
        if parent != str(os.getppid()):  # it has ended already
            os.kill(os.getpid(), number)


def signal_at_parents_end(number: signal.Signals) -> None:
    """Let the kernel send `number` to this process when its parent is gone, which also reaches one that never lets
    Python run."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number))
