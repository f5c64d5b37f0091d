"""The learning rate of every step, computed once on the host for both frameworks."""

from __future__ import annotations

import math

from anatobench.errors import UsageError
from anatobench.recipes import Recipe


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Return the rate of `step` (from 0) in a run of `total_steps`: linear warm-up, then cosine decay towards 0.

    With w = `recipe.warmup_steps` and r = `recipe.learning_rate`:

        step < w:   r * (step + 1) / (w + 1)
        otherwise:  r * (1 + cos(pi * (step - w) / (total_steps - w))) / 2

    The first line is torch.optim.lr_scheduler.LinearLR(start_factor=1 / (w + 1), total_iters=w), the second the closed
    form of CosineAnnealingLR(T_max=total_steps - w) stepped once per training step; 0 would be reached one step after
    the last. `UsageError` if the warm-up leaves no step for the decay.
    """
    warmup = recipe.warmup_steps
    if warmup >= total_steps:
        raise UsageError(f"warmup_steps={warmup} leaves nothing of a run of {total_steps} steps: lower it")
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside a run of {total_steps} steps")
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    return recipe.learning_rate * (1.0 + math.cos(math.pi * (step - warmup) / (total_steps - warmup))) / 2.0
