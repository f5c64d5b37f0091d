"""MViT-v2-S: torchvision's MViT with the paper's patch and positional encoding (Table 7), and the tiny one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anatobench.backbones.mvit_v2_s import CARD, STOCHASTIC_DEPTH, Layout, token_grids
from anatobench.engine import ModelSpec
from anatobench.errors import UsageError
from anatobench.tasks import Size
from jax_impl.layers.initialisation import normal
from jax_impl.layers.layer_norm import LayerNorm
from jax_impl.layers.linear import Linear
from jax_impl.layers.mlp import Mlp
from jax_impl.layers.multiscale_attention import MultiscaleAttention, max_pool_in_plane
from jax_impl.layers.noise import Key, dropout, key_at, stochastic_depth
from jax_impl.layers.patch_embedding import PatchEmbedding
from jax_impl.weights import Entry, Path

DROPOUT = 0.5
"""Before the classifier."""
EPSILON = 1e-6
"""Of every LayerNorm."""
DEVIATION = 0.02
"""Of the initial weights of every linear layer, table and of the class token. (torch's trunc_normal_ truncates at
+-2, a hundred deviations: the normal distribution.)"""


class MultiscaleBlock(nnx.Module):
    """Pooled attention and MLP, [B, 1 + t h w, C] to [B, 1 + t' h' w', C'], the class token first; the skip around the
    attention is projected and max-pooled where shapes differ."""

    def __init__(
        self,
        layout: Layout,
        index: int,
        grid: Size,
        table_grid: Size,
        *,
        dtype: DTypeLike,
        forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:
        """`grid` of the input's patches; `table_grid` is what torchvision sizes the tables by."""
        channels, outputs = layout.channels[index : index + 2]
        stride = layout.query_strides[index]
        self.norm1 = LayerNorm(channels, EPSILON, dtype=dtype)
        self.norm2 = LayerNorm(outputs, EPSILON, dtype=dtype)
        self.attn = MultiscaleAttention(
            grid,
            _table_rows(table_grid, stride, layout.key_value_strides[index]),
            channels,
            outputs,
            layout.heads[index],
            (1, stride, stride),
            (1, layout.key_value_strides[index], layout.key_value_strides[index]),
            epsilon=EPSILON,
            deviation=DEVIATION,
            dtype=dtype,
            forms=forms,
            generator=generator,
        )
        self.mlp = Mlp(outputs, outputs, deviation=DEVIATION, dtype=dtype, generator=generator)
        self.project = (
            None
            if channels == outputs
            else Linear(channels, outputs, deviation=DEVIATION, dtype=dtype, generator=generator)
        )
        self.grid = grid
        self.stride = stride
        self.drop_rate = STOCHASTIC_DEPTH * index / (len(layout.heads) - 1)

    def __call__(self, x: jax.Array, key: Key | None) -> jax.Array:
        normalised = self.norm1(x)
        skip = x if self.project is None else self.project(normalised)
        if self.stride > 1:
            skip = max_pool_in_plane(skip, self.grid, self.stride)
        x = skip + stochastic_depth(self.attn(normalised), self.drop_rate, key_at(key, 0))
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_rate, key_at(key, 1))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """In torchvision's order."""
        for part in ("norm1", "norm2", "attn", "mlp", "project"):
            layer = getattr(self, part)
            if layer is not None:
                yield from layer.weight_table(f"{name}.{part}", (*path, part))


class MViTV2S(nnx.Module):
    """[B, D, H, W, 1] of one size to a feature map at 1/16 of it (full), or 1/4 x 1/8 x 1/8 (tiny)."""

    def __init__(
        self,
        layout: Layout,
        crop_size: Size,
        class_count: int,
        *,
        dtype: DTypeLike,
        forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:
        self.conv_proj = PatchEmbedding(layout.patch, layout.channels[0], dtype=dtype, generator=generator)
        self.class_token = nnx.Param(normal(generator, (layout.channels[0],), DEVIATION))
        self.grids = token_grids(layout, crop_size)
        build = partial(MultiscaleBlock, layout, dtype=dtype, forms=forms, generator=generator)
        blocks, table_grid = [], self.grids[0]
        for index, stride in enumerate(layout.query_strides):
            blocks.append(build(index, self.grids[index], table_grid))
            table_grid = (table_grid[0], table_grid[1] // stride, table_grid[2] // stride)
        self.blocks = nnx.List(blocks)
        self.norm = LayerNorm(layout.channels[-1], EPSILON)
        self.head = Linear(layout.channels[-1], class_count, deviation=DEVIATION, generator=generator)
        self.feature_channels = layout.channels[-1]

    def stages(self, train: bool, key: Key | None) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        """Yield the patches and every block as tokens [B, 1 + d h w, C], class token first, then the map [B, d, h, w,
        C]."""
        yield "patch_embed", self._patch_embed
        for index, block in enumerate(self.blocks):
            yield f"blocks.{index}", partial(block, key=key_at(key, index))
        yield "norm", self._feature_map

    def _patch_embed(self, x: jax.Array) -> jax.Array:
        patches = self.conv_proj(x)
        batch, *grid, channels = patches.shape
        if tuple(grid) != self.grids[0]:
            raise UsageError(f"this model was built for {self.grids[0]} patches and was given {tuple(grid)}")
        class_token = jnp.broadcast_to(self.class_token[...], (batch, 1, channels))
        return jnp.concatenate([class_token, patches.reshape(batch, -1, channels)], 1)

    def _feature_map(self, x: jax.Array) -> jax.Array:
        patches = self.norm(x)[:, 1:]  # the class token goes: the paper averages F instead
        return patches.reshape(-1, *self.grids[-1], self.feature_channels)

    def classify(self, pooled: jax.Array, key: Key | None) -> jax.Array:
        """[B, C] to [B, logits]. torchvision's head with its dropout, on averaged F where torchvision gives it the
        class token."""
        return self.head(dropout(pooled, DROPOUT, key))

    def weight_table(self) -> Iterator[Entry]:
        """torchvision's names."""
        yield from self.conv_proj.weight_table("conv_proj", ("conv_proj",))
        yield Entry("pos_encoding.class_token", ("class_token",), (0,), self.class_token[...].shape)
        for index, block in enumerate(self.blocks):
            yield from block.weight_table(f"blocks.{index}", ("blocks", index))
        yield from self.norm.weight_table("norm", ("norm",))
        yield from self.head.weight_table("head.1", ("head",))


def _table_rows(grid: Size, query_stride: int, key_value_stride: int) -> tuple[int, int, int]:
    """torchvision's sizes: in plane by the longer axis, and by divisions that round down where poolings round up."""
    longer = max(grid[1:])
    in_plane = 2 * max(longer // query_stride, longer // key_value_stride) - 1
    return 2 * grid[0] - 1, in_plane, in_plane


def build_mvit_v2_s(
    spec: ModelSpec, dtype: DTypeLike, forms: Collection[str], generator: np.random.Generator
) -> MViTV2S:
    """Return the backbone for a spec; it takes scans of `spec.crop_size` only."""
    layout, outputs = CARD.layout(spec.size), spec.task.logit_count
    return MViTV2S(layout, spec.crop_size, outputs, dtype=dtype, forms=forms, generator=generator)
