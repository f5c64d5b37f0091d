"""torch.nn.LayerNorm over the last axis.

Flax's LayerNorm has another default epsilon and takes the variance as E[x^2] - E[x]^2, which cancels in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jax_impl.weights import Entry, Path


class LayerNorm(nnx.Module):
    """[..., C] normalised in the parameters' type; the output is in `dtype`, or stays in theirs if that is None."""

    def __init__(self, channels: int, epsilon: float, *, dtype: DTypeLike | None = None) -> None:
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.scale.dtype)
        centred = x - x.mean(-1, keepdims=True)
        factor = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        normalised: jax.Array = centred * factor * self.scale[...] + self.bias[...]
        return normalised.astype(self.dtype or x.dtype)

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Scale and offset."""
        for theirs, ours in (("weight", "scale"), ("bias", "bias")):
            yield Entry(f"{name}.{theirs}", (*path, ours), (0,), self.scale[...].shape)
