"""torchvision's MultiscaleAttention with pooled queries, keys and values (torchvision/models/video/mvit.py).

Tokens are [B, 1 + t h w, C], the class token first and the grid's patches in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from anatobench.tasks import Size
from jax_impl.layers.attention import attention, fused_attention
from jax_impl.layers.depthwise_conv3d import depthwise_conv3d, fast_depthwise_conv3d
from jax_impl.layers.initialisation import normal, uniform
from jax_impl.layers.layer_norm import LayerNorm
from jax_impl.layers.linear import Linear
from jax_impl.layers.relative_positions import one_hot_positions, positional_terms
from jax_impl.weights import Entry, Path, conv3d_entries


class Pooling(nnx.Module):
    """A depthwise convolution of the patches and a LayerNorm of all tokens, per head with the same weights."""

    def __init__(
        self,
        channels: int,
        stride: Size,
        *,
        epsilon: float,
        dtype: DTypeLike,
        fast: bool = False,
        generator: np.random.Generator,
    ) -> None:
        """`channels` of one head. Initialised as PyTorch does a convolution: uniform in +-1/sqrt(27)."""
        self.kernel = nnx.Param(uniform(generator, (3, 3, 3, 1, channels), 27**-0.5))
        self.norm = LayerNorm(channels, epsilon, dtype=dtype)
        self.stride = stride
        self.dtype = dtype
        self.convolve = fast_depthwise_conv3d if fast else depthwise_conv3d

    def __call__(self, tokens: jax.Array, grid: Size) -> jax.Array:
        """[B, 1 + t h w, heads, c] to [B, 1 + t' h' w', heads, c]."""
        batch, _, heads, channels = tokens.shape
        kernel = jnp.tile(self.kernel[:, :, :, 0].astype(self.dtype), heads)
        flat = tokens.reshape(batch, -1, heads * channels)
        pooled = pool_patches(flat, grid, lambda patches: self.convolve(patches, kernel, self.stride))
        return self.norm(pooled.reshape(batch, -1, heads, channels))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield the convolution and its norm, position 0 of torchvision's `norm_act`."""
        channels = self.kernel[...].shape[-1]
        yield from conv3d_entries(f"{name}.pool", path, (channels, 1, 3, 3, 3))
        yield from self.norm.weight_table(f"{name}.norm_act.0", (*path, "norm"))


class MultiscaleAttention(nnx.Module):
    """Tokens [B, 1 + t h w, C] of one grid to tokens [B, 1 + t' h' w', outputs] of the pooled queries' grid."""

    def __init__(
        self,
        grid: Size,
        tables: tuple[int, int, int],
        channels: int,
        outputs: int,
        heads: int,
        query_stride: Size,
        key_value_stride: Size,
        *,
        epsilon: float,
        deviation: float,
        dtype: DTypeLike,
        forms: Collection[str] = (),
        generator: np.random.Generator,
    ) -> None:
        """`tables`: rows of the tables of relative positions along depth, height and width."""
        self.qkv = Linear(channels, 3 * outputs, deviation=deviation, dtype=dtype, generator=generator)
        self.project = Linear(outputs, outputs, deviation=deviation, dtype=dtype, generator=generator)
        head = outputs // heads
        build = partial(Pooling, head, epsilon=epsilon, dtype=dtype, fast="depthwise" in forms, generator=generator)
        self.pool_q, self.pool_k, self.pool_v = build(query_stride), build(key_value_stride), build(key_value_stride)
        depth, height, width = tables
        self.rel_pos_h = nnx.Param(normal(generator, (height, head), deviation))
        self.rel_pos_w = nnx.Param(normal(generator, (width, head), deviation))
        self.rel_pos_t = nnx.Param(normal(generator, (depth, head), deviation))
        self.grid = grid
        self.heads = heads
        self.attention = fused_attention if "attention" in forms else attention

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)
        pools = (self.pool_q, self.pool_k, self.pool_v)
        queries, keys, values = (pool(qkv[:, :, part], self.grid) for part, pool in enumerate(pools))
        attended = self.attention(*self._with_positions(queries, keys), values)
        # The pooled queries are added again, but for the class token.
        attended = attended + jnp.pad(queries[:, 1:], ((0, 0), (1, 0), (0, 0), (0, 0)))
        return self.project(attended.reshape(batch, attended.shape[1], -1))

    def _with_positions(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Scaled queries and keys whose dot product has the relative positions in it; see relative_positions.py."""
        query_grid = pooled_grid(self.grid, self.pool_q.stride)
        key_grid = pooled_grid(self.grid, self.pool_k.stride)
        tables = (self.rel_pos_t[...], self.rel_pos_h[...], self.rel_pos_w[...])
        terms = positional_terms(queries, tables, query_grid, key_grid)
        places = jnp.asarray(one_hot_positions(key_grid), keys.dtype)[:, None]
        places = jnp.broadcast_to(places, (*keys.shape[:3], places.shape[-1]))
        scaled = queries * queries.shape[-1] ** -0.5
        return jnp.concatenate([scaled, terms], -1), jnp.concatenate([keys, places], -1)

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """torchvision's names; `project` is position 0 of a Sequential."""
        for table in ("rel_pos_h", "rel_pos_w", "rel_pos_t"):
            yield Entry(f"{name}.{table}", (*path, table), (0, 1), getattr(self, table)[...].shape)
        yield from self.qkv.weight_table(f"{name}.qkv", (*path, "qkv"))
        yield from self.project.weight_table(f"{name}.project.0", (*path, "project"))
        for pool in ("pool_q", "pool_k", "pool_v"):
            yield from getattr(self, pool).weight_table(f"{name}.{pool}", (*path, pool))


def max_pool_in_plane(tokens: jax.Array, grid: Size, stride: int) -> jax.Array:
    """torch.nn.MaxPool3d of the patches with kernel (1, stride + 1, stride + 1); the class token passes by.

    tokens [B, 1 + d h w, C] of the grid (d, h, w) to [B, 1 + d h' w', C] with h' = ceil(h / stride).
    """
    border = (stride + 1) // 2

    def pool(patches: jax.Array) -> jax.Array:
        largest: jax.Array = lax.reduce_window(
            patches,
            -jnp.inf,
            lax.max,
            window_dimensions=(1, 1, stride + 1, stride + 1, 1),
            window_strides=(1, 1, stride, stride, 1),
            padding=((0, 0), (0, 0), (border, border), (border, border), (0, 0)),
        )
        return largest

    return pool_patches(tokens, grid, pool)


def pool_patches(tokens: jax.Array, grid: Size, pool: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """`pool` of the patches as [B, t, h, w, C], behind the class token as it was."""
    batch, _, channels = tokens.shape
    patches = pool(tokens[:, 1:].reshape(batch, *grid, channels))
    return jnp.concatenate([tokens[:, :1], patches.reshape(batch, -1, channels)], 1)


def pooled_grid(grid: Size, stride: Size) -> Size:
    """Return the grid after a pooling with kernel 3 and padding 1, or 1 and 0: lengths divided by the stride and
    rounded up."""
    (d, h, w), (sd, sh, sw) = grid, stride
    return -(-d // sd), -(-h // sh), -(-w // sw)
