"""Python's processes for tests, forked from a server that has both frameworks imported already: a process that trains
begins at once instead of after five seconds of a core.

What runs in them is what `python WORDS` runs, in the environment given, but for what modules read of it when they are
imported: a variable of that kind must be the tests' own, or the process be started with `subprocess`.
"""

from __future__ import annotations

import atexit
import io
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
import types
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch_ref.engine", "jax_impl.engine", "jax_impl.saver", "anatobench.cli.main", "anatobench.session", "grain"]
)


SHALLOW_VARIABLE = "TESTS_TRAIN_SHALLOW_MODELS"
SHALLOW = {SHALLOW_VARIABLE: "4"}
"""In a process's environment: its tiny models, and those of what it starts, are shallow (`shallow_models.py`), and R3D
begins with so many channels."""
LASTING_VARIABLE = "TESTS_STEPS_LAST_FROM"


def lasting_from(step: int) -> dict[str, str]:
    """Return what to set in the environment of a process that a test stops at that step of its training: from there on
    steps last (`lasting_steps.py`), so that it is met before its last, also where the test has to wait for a core."""
    return {LASTING_VARIABLE: str(step)}


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those of its variables that the interpreter or a module reads when it begins, but not which number of
    threads is set: PyTorch can still be told of another."""
    kinds = ("JAX_", "XLA_", "OMP_", "MALLOC_", "TORCH_", "TRITON_", "PYTHON")
    # Read when a device is first used or work is shared, and what `become` sees to.
    later = ("XLA_PYTHON_CLIENT_", "TORCH_NCCL_")
    others = {"JAX_COMPILATION_CACHE_DIR", "PYTHON", "PYTHONPATH", "PYTHONUNBUFFERED"}
    read = {
        name: value
        for name, value in environment.items()
        if name.startswith(kinds) and not name.startswith(later) and name not in others
    }
    if read.get("OMP_NUM_THREADS", "").isdigit():
        read["OMP_NUM_THREADS"] = "a number"
    return read


class ForkedPython:
    """`python WORDS`; of `subprocess.Popen` what tests use."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        """Begin it: `words` are `-m NAME ...`, `-c CODE ...` or `FILE ...`."""
        if changed := read_at_import(environment).items() ^ read_at_import(os.environ).items():
            raise ValueError(f"{changed} is read when a module is imported: start this process with subprocess")
        folder = tempfile.mkdtemp(prefix="forked_python_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._told = [Path(folder) / name for name in ("stdout", "stderr")]
        given = (list(words), dict(environment), os.getcwd(), *map(str, self._told))
        self._process = CONTEXT.Process(target=_become_with_files, args=given)
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
        said, errors = map(_text_of, self._told)
        return said, errors

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return _text_of(self._told[1])


def _text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _become_with_files(words: list[str], environment: dict[str, str], folder: str, *told: str) -> NoReturn:
    for descriptor, path in enumerate(told, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    become(words, environment, folder)


def become(words: Sequence[str], environment: Mapping[str, str], folder: str) -> NoReturn:
    """Do in this process, which has only imported, what `python WORDS` does in that environment and folder."""
    threads, torch = environment.get("OMP_NUM_THREADS"), sys.modules.get("torch")
    if torch is not None and threads is not None and threads != os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    time.tzset()
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_compilation_cache_dir", environment.get("JAX_COMPILATION_CACHE_DIR"))
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(write_through=True)
    status: int | str | None = 0
    try:
        if width := environment.get(SHALLOW_VARIABLE):
            import pytest
            from shallow_models import make_models_shallow

            make_models_shallow(int(width), pytest.MonkeyPatch())
        if step := environment.get(LASTING_VARIABLE):
            from lasting_steps import make_steps_last

            make_steps_last(int(step))
        _run(list(words))
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    _end(status if isinstance(status, int) else int(status is not None))


def _run(words: list[str]) -> None:
    beside = os.getcwd() if words[0] in ("-m", "-c") else str(Path(words[0]).parent)
    sys.path[0:0] = [beside, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _end(status: int) -> NoReturn:
    """Leave as the interpreter does, which `multiprocessing` would not: threads first, then what asked to be called."""
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter itself calls
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
