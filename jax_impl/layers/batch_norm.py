"""torch.nn.BatchNorm3d on [B, D, H, W, C], with the addition and the ReLU that follow it in a residual block.

Flax's BatchNorm differs in the running variance (biased), the variance's formula (E[x^2] - E[x]^2 by default) and
the sense of momentum.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

EPSILON = 1e-5
POSITIONS = (0, 1, 2, 3)
"""The axes that statistics are taken over."""
SAMPLED = 4
"""Every fourth voxel of every axis gives the fast form its first estimate of the mean."""


class BatchNorm(nnx.Module):
    """Normalises [B, D, H, W, C] by the batch's statistics [C] in training, by the running ones otherwise.

    Statistics are in the parameters' type; the output is in `dtype`.
    """

    MOMENTUM = 0.1
    """The weight of the new value."""

    def __init__(self, channels: int, *, dtype: DTypeLike, fast: bool = False) -> None:
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.running_mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.running_var = nnx.BatchStat(np.ones(channels, np.float32))
        self.dtype = dtype
        self.fast = fast

    def __call__(
        self, x: jax.Array, train: bool, *, residual: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalised x, plus `residual` of the same shape if there is one, through ReLU if that is asked for."""
        parameters = (self.scale[...], self.bias[...])
        if not train:
            y = normalise(x, self.running_mean[...], self.running_var[...], *parameters).astype(self.dtype)
            return _added_and_rectified(y, residual, relu)
        normalised = fast_batch_norm if self.fast else batch_norm
        y, mean, variance = normalised(x, *parameters, residual, relu, self.dtype)
        self._update_running(mean, variance, x.size // x.shape[-1])
        return y

    def _update_running(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        unbiased = variance * (count / max(count - 1, 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running[...] = (1 - self.MOMENTUM) * running[...] + self.MOMENTUM * lax.stop_gradient(new)


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, residual: jax.Array | None, relu: bool, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the output in `dtype`, and the batch's mean and biased variance [C] in the parameters' type.

    x [B, D, H, W, C], scale and bias [C]; `residual` of the shape of x is added before the ReLU.
    """
    wide = x.astype(scale.dtype)
    mean = wide.mean(POSITIONS)
    variance = jnp.square(wide - mean).mean(POSITIONS)
    y = normalise(wide, mean, variance, scale, bias).astype(dtype)
    return _added_and_rectified(y, residual, relu), mean, variance


def normalise(x: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """x [B, D, H, W, C] by mean, variance, scale and bias [C], in the parameters' type."""
    return (x.astype(scale.dtype) - mean) * (lax.rsqrt(variance + EPSILON) * scale) + bias


def _added_and_rectified(y: jax.Array, residual: jax.Array | None, relu: bool) -> jax.Array:
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if relu else y


# The fast form: one pass over x for both statistics, one for the output; in the backward pass one for both sums and one
# for the gradient. Of x-sized arrays it keeps x as it came and, behind an addition, its own output, which the next
# convolution keeps too.


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def fast_batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, residual: jax.Array | None, relu: bool, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `batch_norm`, of the same shapes; no gradient flows through the statistics that it returns."""
    return _in_two_passes(x, scale, bias, residual, relu, dtype)


def _in_two_passes(
    x: jax.Array, scale: jax.Array, bias: jax.Array, residual: jax.Array | None, relu: bool, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean, variance = statistics_in_one_pass(x, scale.dtype)
    y = normalise(x, mean, variance, scale, bias)
    y = y if residual is None else y + residual.astype(y.dtype)
    return (jax.nn.relu(y) if relu else y).astype(dtype), mean, variance


def statistics_in_one_pass(x: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [C] of x [B, D, H, W, C].

    E[x^2] - E[x]^2 cancels where the mean is large beside the deviation. So both are taken about an estimate of the
    mean from some of the voxels, which is off by a fraction of a deviation.
    """
    sample = lax.stop_gradient(x[:, ::SAMPLED, ::SAMPLED, ::SAMPLED])
    estimate = sample.astype(dtype).mean(POSITIONS)
    centred = x.astype(dtype) - estimate
    count = x.size // x.shape[-1]
    offset = centred.sum(POSITIONS) / count
    variance = jnp.square(centred).sum(POSITIONS) / count - jnp.square(offset)
    return estimate + offset, variance.clip(0)  # rounding alone can make it negative


Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, residual: jax.Array | None, relu: bool, dtype: DTypeLike
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Saved]:
    # Not the function above, which would hide from a derivative of the gradient how the statistics depend on x.
    y, mean, variance = _in_two_passes(x, scale, bias, residual, relu, dtype)
    return (y, mean, variance), (x, scale, bias, mean, variance, None if residual is None else y)


def _backward(
    relu: bool, dtype: DTypeLike, saved: Saved, gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """With z = (x - mean) / deviation: d bias = sum g, d scale = sum g z,
    d x = scale / deviation (g - mean g - z mean(g z))."""
    x, scale, bias, mean, variance, output = saved
    if relu:
        passed = normalise(x, mean, variance, scale, bias) if output is None else output
        gradient = jnp.where(passed > 0, gradients[0], 0)
    else:
        gradient = gradients[0]
    wide = gradient.astype(scale.dtype)
    reciprocal = lax.rsqrt(variance + EPSILON)
    z = (x.astype(scale.dtype) - mean) * reciprocal
    of_bias, of_scale = wide.sum(POSITIONS), (wide * z).sum(POSITIONS)
    count = x.size // x.shape[-1]
    of_x = (reciprocal * scale) * (wide - of_bias / count - z * (of_scale / count))
    return of_x.astype(x.dtype), of_scale, of_bias, None if output is None else gradient


fast_batch_norm.defvjp(_forward, _backward)
