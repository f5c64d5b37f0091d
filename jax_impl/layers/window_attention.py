"""torchvision's ShiftedWindowAttention3d (torchvision/models/video/swin_transformer.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from anatobench.tasks import Size
from jax_impl.layers.attention import attention, fused_attention
from jax_impl.layers.initialisation import normal
from jax_impl.layers.linear import Linear
from jax_impl.weights import Entry, Path

MASKED = -100.0
"""Added between positions that are neighbours in a window only because of the cyclic shift."""


REGIONS = 8
"""That a window can have at most: cut once on each of three axes."""


class WindowAttention(nnx.Module):
    """Self-attention within windows of [B, d, h, w, C], every window alone; same shape out."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Size,
        shift: Size,
        *,
        deviation: float,
        dtype: DTypeLike,
        fast: bool = False,
        generator: np.random.Generator,
    ) -> None:
        self.qkv = Linear(channels, 3 * channels, deviation=deviation, dtype=dtype, generator=generator)
        self.proj = Linear(channels, channels, deviation=deviation, dtype=dtype, generator=generator)
        offsets = prod(2 * length - 1 for length in window)
        self.relative_position_bias_table = nnx.Param(normal(generator, (offsets, heads), deviation))
        self.heads = heads
        self.window = window
        self.shift = shift
        self.fast = fast

    def __call__(self, x: jax.Array) -> jax.Array:
        _, *size, _ = x.shape
        window, shift = fitted_window(size, self.window, self.shift)
        padded = [-(-length // side) * side for length, side in zip(size, window, strict=True)]
        # Zeros, like torchvision's: they are keys for everybody in their window, by the bias of qkv.
        x = jnp.pad(x, ((0, 0), *((0, p - n) for p, n in zip(padded, size, strict=True)), (0, 0)))
        x = jnp.roll(x, [-s for s in shift], (1, 2, 3))
        x = self._attend(to_windows(x, window), window, padded, shift)
        x = jnp.roll(from_windows(x, window, padded), shift, (1, 2, 3))
        return x[:, : size[0], : size[1], : size[2]]

    def _attend(self, x: jax.Array, window: Size, padded: Sequence[int], shift: Size) -> jax.Array:
        """x [B, windows, voxels of a window, C]."""
        *batch, channels = x.shape
        qkv = self.qkv(x).reshape(*batch, 3, self.heads, channels // self.heads)
        queries, keys, values = (qkv[..., part, :, :] for part in range(3))
        queries = queries * (channels // self.heads) ** -0.5
        regions = shift_regions(padded, window, shift) if any(shift) else None
        attended = self._fused if self.fast else self._plain
        return self.proj(attended(queries, keys, values, window, regions).reshape(*batch, channels))

    def _plain(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array, window: Size, regions: np.ndarray | None
    ) -> jax.Array:
        """Bias and mask added to the logits [B, windows, heads, voxels, voxels]."""
        bias = repeated(self._relative_position_bias(window), queries.shape[:2])
        if regions is not None:
            # Compared on the device: the whole mask as a constant would be 70 MB in the compiled program at full size.
            numbers = lax.optimization_barrier(jnp.asarray(regions))
            apart = numbers[:, :, None] != numbers[:, None, :]
            bias = bias + jnp.where(apart, jnp.asarray(MASKED, bias.dtype), 0)[:, None]
        return attention(queries, keys, values, bias)

    def _fused(
        self, queries: jax.Array, keys: jax.Array, values: jax.Array, window: Size, regions: np.ndarray | None
    ) -> jax.Array:
        """Return one bias for all windows; the mask, which differs between them, in 8 more columns of queries and
        keys."""
        if regions is not None:
            for_queries, for_keys = mask_columns(regions)
            queries, keys = (
                _with_columns(part, columns) for part, columns in ((queries, for_queries), (keys, for_keys))
            )
        return fused_attention(queries, keys, values, self._relative_position_bias(window))

    def _relative_position_bias(self, window: Size) -> jax.Array:
        """[heads, voxels, voxels]. A window smaller than the model's takes the first rows and columns of the model's
        index, as torchvision does: right where the window shrank in depth alone, and a defined choice elsewhere."""
        voxels = prod(window)
        index = relative_position_index(self.window)[:voxels, :voxels]
        bias: jax.Array = self.relative_position_bias_table[...][index]
        return bias.transpose(2, 0, 1)

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield two linear layers and the table of biases."""
        yield from self.qkv.weight_table(f"{name}.qkv", (*path, "qkv"))
        yield from self.proj.weight_table(f"{name}.proj", (*path, "proj"))
        table = "relative_position_bias_table"
        yield Entry(f"{name}.{table}", (*path, table), (0, 1), self.relative_position_bias_table[...].shape)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeated(bias: jax.Array, times: tuple[int, ...]) -> jax.Array:
    """Repeat to [*times, *bias.shape]. The gradient, a sum over `times`, is a product with ones: XLA's CPU sums over
    leading axes column by column, which was a quarter of a training step."""
    return jnp.broadcast_to(bias, (*times, *bias.shape))


def _repeated_forward(bias: jax.Array, times: tuple[int, ...]) -> tuple[jax.Array, None]:
    return repeated(bias, times), None


def _repeated_backward(times: tuple[int, ...], _: None, gradient: jax.Array) -> tuple[jax.Array]:
    ones = jnp.ones(times, gradient.dtype)
    return (jnp.tensordot(ones, gradient, len(times), precision=lax.Precision.HIGHEST),)


repeated.defvjp(_repeated_forward, _repeated_backward)


def fitted_window(size: Sequence[int], window: Size, shift: Size) -> tuple[Size, Size]:
    """Window and shift for a map: on an axis that the window covers it shrinks to the map and does not shift."""
    covered = [length <= side for length, side in zip(size, window, strict=True)]
    fitted = [length if c else side for length, side, c in zip(size, window, covered, strict=True)]
    shifts = [0 if c else s for s, c in zip(shift, covered, strict=True)]
    return (fitted[0], fitted[1], fitted[2]), (shifts[0], shifts[1], shifts[2])


def to_windows(x: jax.Array, window: Size) -> jax.Array:
    """[B, D, H, W, C] of a size that windows fill to [B, windows, voxels of a window, C]."""
    batch, *size, channels = x.shape
    (wd, wh, ww), (nd, nh, nw) = window, (length // side for length, side in zip(size, window, strict=True))
    x = x.reshape(batch, nd, wd, nh, wh, nw, ww, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, nd * nh * nw, wd * wh * ww, channels)


def from_windows(x: jax.Array, window: Size, size: Sequence[int]) -> jax.Array:
    """Return the inverse of `to_windows`: [B, windows, voxels of a window, C] to [B, D, H, W, C] of `size`."""
    batch, channels = x.shape[0], x.shape[-1]
    (wd, wh, ww), (nd, nh, nw) = window, (length // side for length, side in zip(size, window, strict=True))
    x = x.reshape(batch, nd, nh, nw, wd, wh, ww, channels).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(batch, *size, channels)


def shift_regions(size: Sequence[int], window: Size, shift: Size) -> np.ndarray:
    """int32 [windows, voxels of a window]: positions of the shifted map that were neighbours before have equal numbers.

    Only the last window of an axis mixes: its last `shift` positions come from the map's other end.
    """
    numbers = np.zeros(size, np.int32)
    for axis, (length, side, moved) in enumerate(zip(size, window, shift, strict=True)):
        position = np.arange(length)
        region = (position >= length - side).astype(np.int32) + (position >= length - moved) if moved else 0 * position
        numbers = 3 * numbers + region.astype(np.int32).reshape([-1 if a == axis else 1 for a in range(3)])
    (wd, wh, ww), (nd, nh, nw) = window, (length // side for length, side in zip(size, window, strict=True))
    return numbers.reshape(nd, wd, nh, wh, nw, ww).transpose(0, 2, 4, 1, 3, 5).reshape(nd * nh * nw, wd * wh * ww)


def mask_columns(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For queries and for keys, float32 [windows, voxels, 8]: their products are 0 within a region and `MASKED`
    between two, exactly.

    A query has `MASKED` in its own region's column, and a key has 1 in all columns but its own. A window is cut once
    on each axis, so it has eight regions at most.
    """
    numbers = np.stack([np.unique(window, return_inverse=True)[1].reshape(-1) for window in regions])
    own = np.eye(REGIONS, dtype=np.float32)[numbers]
    return MASKED * own, 1 - own


def _with_columns(part: jax.Array, columns: np.ndarray) -> jax.Array:
    """[B, windows, voxels, heads, d] with `columns` [windows, voxels, 8] behind, the same in every case and head."""
    # Behind a barrier as in the plain form: XLA would fold them into one constant for all cases and heads.
    added = lax.optimization_barrier(jnp.asarray(columns, part.dtype))[:, :, None]
    return jnp.concatenate([part, jnp.broadcast_to(added, (*part.shape[:-1], REGIONS))], -1)


def relative_position_index(window: Size) -> np.ndarray:
    """int32 [voxels, voxels]: the row of the bias table for the offset of a query from a key."""
    positions = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, 3)
    offsets = positions[:, None] - positions[None, :] + (np.asarray(window) - 1)
    rows: np.ndarray = np.ravel_multi_index(np.moveaxis(offsets, -1, 0), [2 * side - 1 for side in window])
    return rows.astype(np.int32)
