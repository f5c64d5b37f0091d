"""torch.nn.Linear."""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from jax_impl.layers.initialisation import normal


class Linear(nnx.Module):
    """[..., in] to [..., out] in the parameters' type; kernel [in, out].

    Initialised as torchvision's VideoResNet does: normal of deviation 0.01, bias 0.
    """

    def __init__(self, features: int, outputs: int, *, generator: np.random.Generator) -> None:
        self.kernel = nnx.Param(normal(generator, (features, outputs), 0.01))
        self.bias = nnx.Param(np.zeros(outputs, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]
