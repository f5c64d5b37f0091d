"""Named ranges of a step in a trace: PyTorch's own profiler sees them, and Nsight Systems as NVTX where it looks on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

_nvtx = False
"""Whether Nsight Systems is looking on: without it NVTX ranges would cost a call each and show nowhere."""


@contextmanager
def named_range(name: str) -> Iterator[None]:
    """Call what is done inside `name` in a trace; without a trace it costs some microseconds."""
    with record_function(name):
        if not _nvtx:
            yield
            return
        torch.cuda.nvtx.range_push(name)
        try:
            yield
        finally:
            torch.cuda.nvtx.range_pop()


@contextmanager
def nvtx_ranges() -> Iterator[None]:
    """Let `named_range` tell Nsight Systems, too."""
    global _nvtx
    _nvtx = True
    try:
        yield
    finally:
        _nvtx = False
