"""The convolution of a transformer's patches: kernel and stride equal, so one matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anatobench.tasks import Size
from jax_impl.layers.conv3d import conv3d_of_patches
from jax_impl.layers.initialisation import uniform
from jax_impl.weights import Entry, Path, conv3d_entries


class PatchEmbedding(nnx.Module):
    """torch.nn.Conv3d(1, channels, patch, stride=patch) on [B, D, H, W, 1]; kernel [D, H, W, 1, channels].

    Initialised as PyTorch does a convolution: weight and bias uniform in +-1/sqrt(voxels of a patch).
    """

    def __init__(self, patch: Size, channels: int, *, dtype: DTypeLike, generator: np.random.Generator) -> None:
        bound = prod(patch) ** -0.5
        self.kernel = nnx.Param(uniform(generator, (*patch, 1, channels), bound))
        self.bias = nnx.Param(uniform(generator, (channels,), bound))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """To [B, d, h, w, channels]; what does not fill a patch is left out."""
        kernel: jax.Array = self.kernel[...].astype(self.dtype)
        bias: jax.Array = self.bias[...].astype(self.dtype)
        return conv3d_of_patches(x.astype(self.dtype), kernel) + bias

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """torch's Conv3d with bias."""
        *patch, _, channels = self.kernel[...].shape
        yield from conv3d_entries(name, path, (channels, 1, *patch), bias=True)
