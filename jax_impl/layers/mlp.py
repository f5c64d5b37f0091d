"""torchvision.ops.MLP with one hidden layer and GELU, as the transformer blocks have it (without its dropout, which
both models leave at 0)."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jax_impl.layers.linear import Linear
from jax_impl.weights import Entry, Path


class Mlp(nnx.Module):
    """[..., channels] to [..., outputs] over four times the channels; positions 0 and 3 of torchvision's Sequential."""

    def __init__(
        self, channels: int, outputs: int, *, deviation: float, dtype: DTypeLike, generator: np.random.Generator
    ) -> None:
        self.hidden = Linear(channels, 4 * channels, deviation=deviation, dtype=dtype, generator=generator)
        self.output = Linear(4 * channels, outputs, deviation=deviation, dtype=dtype, generator=generator)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(jax.nn.gelu(self.hidden(x), approximate=False))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield both layers."""
        yield from self.hidden.weight_table(f"{name}.0", (*path, "hidden"))
        yield from self.output.weight_table(f"{name}.3", (*path, "output"))
