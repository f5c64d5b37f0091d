"""The auxiliary head: a 1x1x1 convolution on the feature map, whose output is upsampled to the input's size."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_impl.layers.initialisation import uniform
from jax_impl.weights import Entry, conv3d_entries


class AuxiliaryHead(nnx.Module):
    """F [B, d, h, w, C] to coarse logits [B, classes, d, h, w].

    Classes stand before space, as in torch and unlike elsewhere here: with them last, six or seven wide, every pass
    over the upsampled logits would waste most of a vector register or a memory line.

    Initialised as PyTorch does a convolution, which is what a head added to a torchvision model gets: weight and bias
    uniform in +-1/sqrt(C). (VideoResNet's fan-out rule would start with logits of deviation 10.)
    """

    def __init__(self, name: str, channels: int, classes: int, *, generator: np.random.Generator) -> None:
        self.name = name
        bound = channels**-0.5
        self.kernel = nnx.Param(uniform(generator, (1, 1, 1, channels, classes), bound))
        self.bias = nnx.Param(uniform(generator, (classes,), bound))

    def __call__(self, features: jax.Array) -> jax.Array:
        coarse = features @ self.kernel[0, 0, 0] + self.bias[...]
        return jnp.moveaxis(coarse, -1, 1)

    def weight_table(self) -> Iterator[Entry]:
        """torch's Conv3d with bias."""
        _, _, _, channels, classes = self.kernel[...].shape
        yield from conv3d_entries(f"{self.name}_head", (f"{self.name}_head",), (classes, channels, 1, 1, 1), bias=True)
