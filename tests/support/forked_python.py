"""Python's processes for tests, forked from a server that has both frameworks imported already: a process that trains
begins at once instead of after five seconds of a core.

What runs in them is what `python WORDS` runs, in the environment given, but for what modules read of it when they are
imported: a variable of that kind must be the tests' own, or the process be started with `subprocess`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch_ref.engine", "jax_impl.engine", "jax_impl.saver", "anatobench.cli.main", "anatobench.session", "grain"]
)
READ_AT_IMPORT = ("JAX_", "XLA_", "OMP_", "MALLOC_", "PYTHON", "TORCH_", "TRITON_")


class ForkedPython:
    """`python WORDS`; of `subprocess.Popen` what tests use."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        """Begin it: `words` are `-m NAME ...` or `FILE ...`."""
        for name in environment.keys() | os.environ.keys():
            if name.startswith(READ_AT_IMPORT) and environment.get(name) != os.environ.get(name):
                raise ValueError(f"{name} is read when a module is imported: start this process with subprocess")
        folder = tempfile.mkdtemp(prefix="forked_python_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._told = [Path(folder) / name for name in ("stdout", "stderr")]
        given = (list(words), dict(environment), os.getcwd(), *map(str, self._told))
        self._process = _CONTEXT.Process(target=_become, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status; the signal's number, negative, if one ended it; None while it is at work."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status, once it has ended; `subprocess.TimeoutExpired` as `Popen`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and stderr."""
        self.wait(timeout)
        said, errors = (path.read_text() if path.exists() else "" for path in self._told)
        return said, errors


def _become(words: list[str], environment: dict[str, str], folder: str, out: str, errors: str) -> NoReturn:
    """Do in this process, which has only imported, what `python WORDS` does."""
    for path, descriptor in ((out, 1), (errors, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    time.tzset()
    status: int | str | None = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0:0] = words, [str(Path(words[0]).parent)]
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    _end(status if isinstance(status, int) else int(status is not None))


def _end(status: int) -> NoReturn:
    """Leave as the interpreter does, which `multiprocessing` would not: threads first, then what asked to be called."""
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter itself calls
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
