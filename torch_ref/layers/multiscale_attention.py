"""torchvision's MultiscaleAttention (torchvision/models/video/mvit.py), and its fast forms on the same parameters.

Tokens are [B, 1 + t h w, C], the class token first and the grid's patches in row-major order. The plain form is
torchvision's own: poolings of [B heads, c, t, h, w], all logits in memory, and relative positions added to them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MultiscaleAttention, Pool

from anatobench.tasks import Size
from torch_ref.layers.attention import attention, fused_attention
from torch_ref.layers.depthwise_conv3d import depthwise_conv3d, depthwise_conv3d_plain
from torch_ref.layers.relative_positions import one_hot_positions, positional_terms, relative_rows, row_picks


class FastMultiscaleAttention(MultiscaleAttention):
    """What `with_fast_forms` makes of one: pooling of tokens as they lie, positions folded into queries and keys."""

    forms: frozenset[str]
    """Which of `depthwise` and `attention` are on; neither is torchvision's own form."""
    picks_t: Tensor
    """[queries, keys, table rows] along depth, see `row_picks`; as the others in the parameters' type."""
    picks_h: Tensor
    """[queries, keys, table rows]"""
    picks_w: Tensor
    """[queries, keys, table rows]"""
    key_places: Tensor
    """[1 + t h w, t + h + w] of the keys' grid, see `one_hot_positions`."""

    def forward(self, x: Tensor, thw: Size) -> tuple[Tensor, Size]:
        """[B, 1 + t h w, C] of the grid `thw` to tokens of the pooled queries' grid, and that grid."""
        if not self.forms:
            return super().forward(x, thw)
        qkv = self.qkv(x)
        pools = (self.pool_q, self.pool_k, self.pool_v)
        pooled = (self._pooled(part, cast(Pool, pool), thw) for part, pool in zip(qkv.chunk(3, -1), pools, strict=True))
        (queries, query_grid), (keys, _), (values, _) = pooled
        attend = fused_attention if "attention" in self.forms else attention
        attended = attend(*self._with_positions(queries, keys, query_grid), values)
        # The pooled queries are added again, but for the class token.
        attended = attended + nn.functional.pad(queries[:, :, 1:], (0, 0, 1, 0))
        return self.project(attended.transpose(1, 2).flatten(2)), query_grid

    def _pooled(self, tokens: Tensor, pool: Pool, grid: Size) -> tuple[Tensor, Size]:
        """[B, 1 + t h w, heads c] to [B, heads, 1 + t' h' w', c] in the same type, and the new grid."""
        convolve = depthwise_conv3d if "depthwise" in self.forms else depthwise_conv3d_plain
        convolution = cast(nn.Conv3d, pool.pool)
        kernel = convolution.weight[:, 0].permute(1, 2, 3, 0)  # [3, 3, 3, c], the same for every head
        patches = convolve(tokens[:, 1:].unflatten(1, grid), kernel, cast(Size, convolution.stride))
        depth, height, width = patches.shape[1:4]
        joined = torch.cat([tokens[:, :1], patches.flatten(1, 3)], 1).unflatten(2, (self.num_heads, self.head_dim))
        normalised = cast(nn.Module, pool.norm_act)(joined).to(tokens.dtype)
        return normalised.transpose(1, 2), (depth, height, width)

    def _with_positions(self, queries: Tensor, keys: Tensor, query_grid: Size) -> tuple[Tensor, Tensor]:
        """Scaled queries and keys whose dot product has the relative positions in it; see relative_positions.py."""
        tables = ((self.rel_pos_t, self.picks_t), (self.rel_pos_h, self.picks_h), (self.rel_pos_w, self.picks_w))
        rows = [relative_rows(cast(Tensor, table), picks) for table, picks in tables]
        terms = positional_terms(queries, rows, query_grid)
        places = self.key_places.to(keys.dtype).expand(*keys.shape[:2], -1, -1)
        return torch.cat([queries * self.scaler, terms], -1), torch.cat([keys, places], -1)


def with_fast_forms(layer: MultiscaleAttention, grid: Size, forms: frozenset[str]) -> None:
    """Switch on those of `forms` that this layer has, for tokens of one grid. Parameters and their names stay."""
    query_grid, key_grid = (_pooled_grid(grid, cast(Pool, pool)) for pool in (layer.pool_q, layer.pool_k))
    layer.__class__ = FastMultiscaleAttention
    assert isinstance(layer, FastMultiscaleAttention)
    layer.forms = forms & {"depthwise", "attention"}
    for axis, name in enumerate("thw"):
        table = cast(Tensor, getattr(layer, f"rel_pos_{name}"))
        picks = torch.from_numpy(row_picks(len(table), query_grid[axis], key_grid[axis]))
        layer.register_buffer(f"picks_{name}", picks, persistent=False)
    layer.register_buffer("key_places", torch.from_numpy(one_hot_positions(key_grid)), persistent=False)


def _pooled_grid(grid: Size, pool: Pool) -> Size:
    """Return the grid after a pooling with kernel 3 and padding 1: lengths divided by the stride and rounded up."""
    (d, h, w), (sd, sh, sw) = grid, cast(nn.Conv3d, pool.pool).stride
    return -(-d // sd), -(-h // sh), -(-w // sw)
