"""What every file of Triton kernels needs: the language where it is installed, and where kernels run.

CPU builds of torch come without Triton. Then `jit` leaves a function as it is, nobody calls it, and the plain forms
are taken. With TRITON_INTERPRET=1 in the environment before anything imports Triton, kernels run in Python on a CPU.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

tl: Any = None
try:
    import triton
except ImportError:
    AVAILABLE = INTERPRETED = False

    def jit(function: Any) -> Any:
        """Return a kernel that nobody can launch."""
        return function
else:
    tl, jit = triton.language, triton.jit
    AVAILABLE, INTERPRETED = True, bool(triton.knobs.runtime.interpret)


def compiler_found() -> bool:
    """Return whether there is a compiler of C, with Python's headers, for the programs that launch Triton's kernels:
    the environment's CC, else one of these two."""
    chosen = os.environ.get("CC")
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return headers.is_file() and any(shutil.which(name) for name in ([chosen] if chosen else ("gcc", "clang")))


LAUNCHES = compiler_found()
OFFSETS = 2**31
"""Elements that a kernel's 32-bit offsets reach, from a base whose offset has 64 bits."""


def kernels_run_on(x: Tensor) -> bool:
    """Return whether Triton can be asked to work on x, of any shape: a CUDA tensor where there is a C compiler, or any
    while kernels are interpreted."""
    return AVAILABLE and ((x.is_cuda and LAUNCHES) or INTERPRETED)


def accumulator(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """In which type sums over elements of `dtype` are taken, in torch's and in Triton's name: float32 at least."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def blocks(length: int, block: int) -> int:
    """Return how many blocks cover `length`."""
    return -(-length // block)
