"""AdamW with the gradient clipped by its global norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from anatobench.recipes import Recipe


def build_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """Decoupled weight decay on every parameter; the learning rate is set anew at every step."""
    parameters = list(parameters)
    return torch.optim.AdamW(
        parameters,
        fused=all(parameter.is_cuda for parameter in parameters),  # one kernel for many arrays, and no other numbers
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
        weight_decay=recipe.weight_decay,
    )


def clip_and_update(optimizer: torch.optim.AdamW, clip_norm: float, learning_rate: float) -> Tensor:
    """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), take one AdamW step; returns the norm before,
    a scalar on the device."""
    (group,) = optimizer.param_groups
    norm = torch.nn.utils.clip_grad_norm_(group["params"], clip_norm)
    group["lr"] = learning_rate
    optimizer.step()
    return norm
