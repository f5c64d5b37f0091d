"""Lets tests import what stands in tests/support and start commands that begin at once, keeps compiled programs out of
the home directory and compiles them quickly, and lets every process that tests start heed Ctrl-C and the end of a
terminal."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))

# Inherited by every process that tests start. The Makefile names a folder for JAX's, which comes first.
os.environ.setdefault("ANATOBENCH_COMPILE_CACHE", "off")

# Tests run beside each other, and threads of several pools on the same cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What XLA compiles here runs for moments: without LLVM's optimization and in its older form of fusions it compiles in a
# fifth of the time. An empty XLA_FLAGS, as of `make test-parity`, leaves it all in.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# A shell starts what it runs in the background with Ctrl-C ignored, and child processes inherit that. A handler
# set here is taken off again in each child. (Popen's preexec_fn would do it too, but forks in a way JAX warns of.)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Likewise of `nohup`: a test that wants SIGHUP ignored says so itself.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a `python` whose processes have both frameworks imported (support/preloaded_python.py), on Linux."""
    from preloaded_python import preloaded_python

    if not hasattr(os, "pidfd_open"):
        yield Path(sys.executable)
        return
    with preloaded_python(tmp_path_factory.mktemp("preloaded")) as executable:
        yield executable


@pytest.fixture(scope="module")
def begins_at_once(preloaded: Path) -> Iterator[None]:
    """Let what the module's tests start by `sys.executable` be such processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(preloaded))
        yield


@pytest.fixture(scope="module")
def shallow_models() -> Iterator[None]:
    """Let the module's tests, and forked processes that they start, train models of a few blocks
    (support/shallow_models.py)."""
    from forked_python import SHALLOW, SHALLOW_VARIABLE
    from shallow_models import make_models_shallow

    with pytest.MonkeyPatch.context() as patch:
        make_models_shallow(int(SHALLOW[SHALLOW_VARIABLE]), patch)
        for name, value in SHALLOW.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def workers_begin_at_once() -> Iterator[None]:
    """Let the module's worker pools (anatobench/system/worker_pool.py) fork what they would spawn from a process that
    has imported everything; a worker finds the tests' own number of threads."""
    from forked_python import CONTEXT

    context = multiprocessing.get_context

    def forking(method: str | None = None) -> multiprocessing.context.BaseContext:
        return CONTEXT if method == "spawn" else context(method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", forking)
        yield
