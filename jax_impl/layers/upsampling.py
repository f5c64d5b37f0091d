"""torch.nn.functional.interpolate(mode="trilinear", align_corners=False).

The operation is linear and separable: one small matrix per axis, so that forward and backward are matrix products.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatobench.tasks import Size


def upsample_trilinear(x: jax.Array, size: Size) -> jax.Array:
    """[B, C, d, h, w] to [B, C, *size]."""
    matrices = [interpolation_matrix(source, target) for source, target in zip(x.shape[2:], size, strict=True)]
    return upsample_by(x, *(jnp.asarray(matrix, x.dtype) for matrix in matrices))


def upsample_by(x: jax.Array, depth: jax.Array, height: jax.Array, width: jax.Array) -> jax.Array:
    """[B, C, d, h, w] to [B, C, D, H, W] by the matrices [D, d], [H, h] and [W, w]; the axes in this order, so that the
    largest product comes last and is contiguous."""
    # Full precision even where TF32 is allowed: the cost is memory traffic, and torch's kernel has no TF32 either.
    product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    x = product("Dd,bcdhw->bcDhw", depth, x)
    x = product("Hh,bcdhw->bcdHw", height, x)
    return product("bcdhw,Ww->bcdhW", x, width)


def interpolation_matrix(source: int, target: int) -> np.ndarray:
    """float64 [target, source]: row i holds the weights of output voxel i.

    Voxel centres are at (i + 0.5) * source / target - 0.5, clamped to the first and last centre (PyTorch's
    `area_pixel_compute_source_index`).
    """
    centres = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0)
    below = np.minimum(centres.astype(np.int64), source - 1)
    above = np.minimum(below + 1, source - 1)
    fraction = centres - below
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, below), 1.0 - fraction)
    np.add.at(matrix, (rows, above), fraction)
    return matrix
