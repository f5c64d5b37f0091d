"""What `Recipe.precision` means in JAX: parameter and compute types, and the settings around every call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclass(frozen=True)
class Precision:
    """The backbone computes in `compute_dtype`; BatchNorm's statistics, heads and losses in `parameter_dtype`."""

    parameter_dtype: DTypeLike
    compute_dtype: DTypeLike
    tensor_float32: bool
    """Whether matrix products and convolutions of float32 may use TF32 tensor cores."""

    @staticmethod
    def named(name: str) -> Precision:
        """Return the precision of one of `recipes.PRECISIONS`."""
        parameter_dtype = jnp.float64 if name == "fp64" else jnp.float32
        compute_dtype = jnp.bfloat16 if name == "bf16" else parameter_dtype
        return Precision(parameter_dtype, compute_dtype, tensor_float32=name == "tf32")

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """64-bit types only where asked for, and products of float32 in full precision unless TF32 is."""
        products = "tensorfloat32" if self.tensor_float32 else "highest"
        with jax.enable_x64(self.parameter_dtype == jnp.float64), jax.default_matmul_precision(products):
            yield
