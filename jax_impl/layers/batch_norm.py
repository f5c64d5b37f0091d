"""torch.nn.BatchNorm3d on [B, D, H, W, C].

Flax's BatchNorm differs in the running variance (biased), the variance's formula (E[x^2] - E[x]^2 by default) and
the sense of momentum.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike


class BatchNorm(nnx.Module):
    """Normalises by the batch's statistics in training, by the running ones otherwise.

    Statistics are in the parameters' type; the output is in `dtype`.
    """

    EPSILON = 1e-5
    MOMENTUM = 0.1
    """The weight of the new value."""

    def __init__(self, channels: int, *, dtype: DTypeLike) -> None:
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.running_mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.running_var = nnx.BatchStat(np.ones(channels, np.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.astype(self.scale.dtype)
        if train:
            mean = x.mean((0, 1, 2, 3))
            variance = jnp.square(x - mean).mean((0, 1, 2, 3))
            self._update_running(mean, variance, x.size // x.shape[-1])
        else:
            mean, variance = self.running_mean[...], self.running_var[...]
        factor = lax.rsqrt(variance + self.EPSILON) * self.scale[...]
        return ((x - mean) * factor + self.bias[...]).astype(self.dtype)

    def _update_running(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        unbiased = variance * (count / max(count - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running[...] = (1 - self.MOMENTUM) * running[...] + self.MOMENTUM * lax.stop_gradient(new)
