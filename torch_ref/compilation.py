"""`Recipe.compile` in PyTorch: torch.compile of the whole step's mathematics, and where compiled programs are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anatobench.fast_forms import BY_DEVICE
from anatobench.system.compile_cache import compile_cache
from torch_ref.layers.triton_language import compiler_found

BACKEND = "inductor"
CACHE_VARIABLE, TRITON_VARIABLE = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
"""PyTorch's and Triton's own; what the user has set holds."""


SHAPES = 64
"""For how many shapes and models one process compiles. After PyTorch's own 8 a whole graph is an error: nine batch
sizes of a search, or nine models of the parity ladder."""


def compiles(asked: str, device: torch.device) -> bool:
    """Return what `Recipe.compile` means on a device. Where it is left to the device, and that cannot, it is said."""
    if asked != BY_DEVICE:
        return asked != "false"
    if device.type != "cuda":
        return False
    if compiler_found():
        return True
    print(
        "no C compiler or no Python.h here: PyTorch's steps are not compiled and take longer; install gcc (or set CC) "
        "and Python's headers",
        file=sys.stderr,
    )
    return False


def compiled(function: Callable[..., Any], asked: str, alone: bool) -> Callable[..., Any]:
    """Return `function` compiled for the shapes that it is called with, as one graph, or it says why it cannot be
    one."""
    return torch.compile(function, **_options(asked, alone))


def compile_module(module: nn.Module, asked: str, alone: bool) -> None:
    """As `compiled`, of a module in place: also where DistributedDataParallel calls it."""
    module.compile(**_options(asked, alone))


def _options(asked: str, alone: bool) -> dict[str, Any]:
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    if not alone and torch.__version__ < "2.14":
        # What parts a graph for DistributedDataParallel refuses recomputed parts and FlexAttention. Without it
        # gradients are averaged after a graph's backward pass instead of during it.
        torch._dynamo.config.optimize_ddp = False
    # Every shape is compiled for itself: batches have one shape, and symbolic ones keep FlexAttention from lowering.
    return {
        "backend": BACKEND,
        "fullgraph": True,
        "dynamic": False,
        "mode": "reduce-overhead" if asked == "graphs" else None,
    }


def keep_compiled_programs() -> None:
    """Let PyTorch and Triton keep theirs where anatobench/system/compile_cache.py says."""
    folder = compile_cache("torch")
    if folder is not None:
        os.environ.setdefault(CACHE_VARIABLE, str(folder))
        os.environ.setdefault(TRITON_VARIABLE, str(folder / "triton"))
