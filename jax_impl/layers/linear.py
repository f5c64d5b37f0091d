"""torch.nn.Linear."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jax_impl.layers.initialisation import normal
from jax_impl.weights import Entry, Path, linear_entries


class Linear(nnx.Module):
    """[..., in] to [..., out] in `dtype`, in the parameters' type if that is None; kernel [in, out].

    Initialised as torchvision's video models do: normal of the given deviation, bias 0.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        deviation: float,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        generator: np.random.Generator,
    ) -> None:
        self.kernel = nnx.Param(normal(generator, (features, outputs), deviation))
        self.bias = nnx.Param(np.zeros(outputs, np.float32)) if bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.dtype or self.kernel.dtype
        y: jax.Array = x.astype(dtype) @ self.kernel[...].astype(dtype)
        bias: jax.Array | None = None if self.bias is None else self.bias[...].astype(dtype)
        return y if bias is None else y + bias

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Weight, and bias if there is one."""
        features, outputs = self.kernel[...].shape
        yield from linear_entries(name, path, (outputs, features), bias=self.bias is not None)
