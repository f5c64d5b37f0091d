"""`Recipe.compile` in PyTorch: torch.compile of the whole step's mathematics, and where compiled programs are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anatobench.compile_cache import compile_cache
from anatobench.fast_forms import BY_DEVICE

BACKEND = "inductor"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""PyTorch's own; what the user has set holds."""


def compiles(asked: str, device: torch.device) -> bool:
    """What `Recipe.compile` means on a device."""
    return device.type == "cuda" if asked == BY_DEVICE else asked != "false"


def compiled(function: Callable[..., Any], asked: str, alone: bool) -> Callable[..., Any]:
    """`function` compiled for the shapes that it is called with.

    One process compiles one graph or says why it cannot. Several may part it: SyncBatchNorm's collectives are Python.
    """
    _keep_programs()
    mode = "reduce-overhead" if asked == "graphs" else None
    # Every shape is compiled for itself: batches have one shape, and symbolic ones keep FlexAttention from lowering.
    return torch.compile(function, backend=BACKEND, fullgraph=alone, dynamic=False, mode=mode)


def compile_module(module: nn.Module, asked: str, alone: bool) -> None:
    """As `compiled`, of a module in place: also where DistributedDataParallel calls it."""
    _keep_programs()
    module.compile(
        backend=BACKEND, fullgraph=alone, dynamic=False, mode="reduce-overhead" if asked == "graphs" else None
    )


def _keep_programs() -> None:
    folder = compile_cache("torch")
    if folder is not None:
        os.environ.setdefault(CACHE_VARIABLE, str(folder))
