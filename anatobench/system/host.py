"""The code and the host that a measurement was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anatobench import __version__
from anatobench.system.image import describe_image
from anatobench.system.worker_pool import NATIVE_THREAD_VARIABLES, usable_cores

COMMIT_VARIABLE = "ANATOBENCH_COMMIT"
"""Names the commit where the code lies without its history, in an image or a copy."""
TIMING_VARIABLES = (
    # glibc's allocator: how often large arrays are given back to the kernel and fetched again.
    *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"),
    *NATIVE_THREAD_VARIABLES,
    *("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "NCCL_ALGO", "NCCL_PROTO"),
)
"""Variables of the environment that change how fast the same program runs."""


def describe_code() -> dict[str, Any]:
    """Version and git commit; `dirty` if files were changed since, None where there is no history to ask; `image`, the
    container image (`system.image.describe_image`), None outside one."""
    folder = Path(__file__).parents[2]
    commit = output_of(["git", "-C", str(folder), "rev-parse", "HEAD"]) if (folder / ".git").exists() else None
    changed = output_of(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]) if commit else None
    image = describe_image()
    return {
        "version": __version__,
        "commit": commit or os.environ.get(COMMIT_VARIABLE) or (image or {}).get("commit"),
        "dirty": None if changed is None else bool(changed),
        "image": image,
    }


def describe_host() -> dict[str, Any]:
    """Processor, cores this process may use, how busy the machine is at this moment, and what the caller has set."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "kernel": platform.release(),
        "load_1m": os.getloadavg()[0],
        "environment": {name: os.environ[name] for name in TIMING_VARIABLES if name in os.environ},
    }


def host_record() -> dict[str, Any]:
    """`describe_host` and the versions, for what is measured in this process itself."""
    host = describe_host()
    del host["load_1m"]
    return {
        **host,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "anatobench": __version__,
    }


def cpu_name() -> str:
    """Return the processor's own name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def output_of(command: Sequence[str]) -> str | None:
    """Return what it prints; None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
