"""The backbones' numbers, once for both frameworks and for the FLOP count: channels, depths, heads, strides.

One file per backbone, named as the framework's files are, offers a frozen `Layout`, `LAYOUTS` by size ("full" is the
paper's, "tiny" is for CPU work) and what else the frameworks share. How a framework builds layers from them, and how
it initialises these, stays in its own file.
"""

from __future__ import annotations

import importlib


def has_dropout(model: str) -> bool:
    """Whether a training step of that backbone draws dropout or stochastic depth, unless the recipe has it off."""
    return bool(importlib.import_module(f"{__name__}.{model}").HAS_DROPOUT)
