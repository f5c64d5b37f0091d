"""MViT-v2-S: torchvision's MViT with the paper's patch and positional encoding (Table 7), and the tiny one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleBlock, MViT

from anatobench.engine import ModelSpec
from anatobench.errors import UsageError
from anatobench.tasks import Size


@dataclass(frozen=True)
class Layout:
    """What differs between the sizes. Pooling is in plane only; every kernel is 3x3x3."""

    patch: Size
    channels: tuple[int, ...]
    """Of the patches, then of every block's output."""
    heads: tuple[int, ...]
    """Attention heads per block."""
    query_strides: tuple[int, ...]
    """Per block; 2 halves the grid from there on."""
    key_value_strides: tuple[int, ...]
    """Per block, relative to the grid of the block's input."""

    @property
    def blocks(self) -> list[MSBlockConfig]:
        """torchvision's form of the table."""
        return [
            MSBlockConfig(
                num_heads=self.heads[index],
                input_channels=self.channels[index],
                output_channels=self.channels[index + 1],
                kernel_q=[3, 3, 3],
                kernel_kv=[3, 3, 3],
                stride_q=[1, self.query_strides[index], self.query_strides[index]],
                stride_kv=[1, self.key_value_strides[index], self.key_value_strides[index]],
            )
            for index in range(len(self.heads))
        ]


LAYOUTS = {
    "full": Layout(  # torchvision.models.video.mvit_v2_s
        patch=(16, 2, 2),
        channels=(96, 96, 192, 192, *(384,) * 11, 768, 768),
        heads=(1, 2, 2, *(4,) * 11, 8, 8),
        query_strides=(1, 2, 1, 2, *(1,) * 10, 2, 1),
        key_value_strides=(8, 4, 4, *(2,) * 11, 1, 1),
    ),
    # Small, yet nothing of the full one is missing: blocks with more queries than keys and with fewer; skips that are
    # pooled, projected, both and neither; at the abdomen's grid of 10x22x24 also tables interpolated to the shorter
    # axis and a grid that halves unevenly.
    "tiny": Layout(
        patch=(4, 2, 2),
        channels=(8, 16, 16, 32, 64),
        heads=(1, 2, 2, 4),
        query_strides=(2, 1, 2, 1),
        key_value_strides=(4, 2, 1, 1),
    ),
}
STOCHASTIC_DEPTH = 0.2
"""Of the last block, growing linearly from 0 at the first: torchvision's value for MViT-v2-S."""


class MViTV2S(MViT):
    """[B, 1, D, H, W] of one size to a feature map at 1/16 of it (full), or 1/4 x 1/8 x 1/8 (tiny)."""

    def __init__(self, layout: Layout, crop_size: Size, class_count: int) -> None:
        depth, height, width = crop_size
        super().__init__(
            spatial_size=(height, width),
            temporal_size=depth,
            block_setting=layout.blocks,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            stochastic_depth_prob=STOCHASTIC_DEPTH,
            num_classes=class_count,
            patch_embed_kernel=layout.patch,
            patch_embed_stride=layout.patch,
            patch_embed_padding=(0, 0, 0),
        )
        # Table 7: CT has one channel; MViT fixes three.
        self.conv_proj = nn.Conv3d(1, layout.channels[0], kernel_size=layout.patch, stride=layout.patch)
        self.feature_channels = layout.channels[-1]
        self.grids = token_grids(layout, crop_size)

    def stages(self) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        """The patches and every block as tokens [B, 1 + d h w, C], class token first, then the map [B, C, d, h, w]."""
        stages: list[tuple[str, Callable[[Tensor], Tensor]]] = [("patch_embed", self._patch_embed)]
        for index, block in enumerate(self.blocks):
            stages.append((f"blocks.{index}", partial(_apply_block, block, grid=self.grids[index])))
        return [*stages, ("norm", self._feature_map)]

    def _patch_embed(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x)
        if tuple(x.shape[2:]) != self.grids[0]:
            raise UsageError(f"this model was built for {self.grids[0]} patches and was given {tuple(x.shape[2:])}")
        return self.pos_encoding(x.flatten(2).transpose(1, 2))

    def _feature_map(self, x: Tensor) -> Tensor:
        patches = self.norm(x)[:, 1:]  # the class token goes: the paper averages F instead
        return patches.transpose(1, 2).unflatten(2, self.grids[-1])

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits]. torchvision's head with its dropout, on averaged F where torchvision gives it the
        class token."""
        return self.head(pooled)


def _apply_block(block: MultiscaleBlock, x: Tensor, grid: Size) -> Tensor:
    return block(x, grid)[0]


def token_grids(layout: Layout, crop_size: Size) -> list[Size]:
    """The grid of tokens before every block, and after the last; `UsageError` for a crop with none to spare.

    Whatever does not fill a patch is cut off, as by torchvision; a pooling rounds up.
    """
    depth, height, width = (length // patch for length, patch in zip(crop_size, layout.patch, strict=True))
    total_stride = prod(layout.query_strides)
    if depth < 1 or min(height, width) < total_stride:
        smallest = (layout.patch[0], layout.patch[1] * total_stride, layout.patch[2] * total_stride)
        raise UsageError(f"crop size {crop_size} is too small for MViT: it needs at least {smallest}")
    grids = [(depth, height, width)]
    for stride in layout.query_strides:
        depth, height, width = grids[-1]
        grids.append((depth, (height - 1) // stride + 1, (width - 1) // stride + 1))
    return grids


def build_mvit_v2_s(spec: ModelSpec) -> MViTV2S:
    """The backbone for a spec; it takes scans of `spec.crop_size` only."""
    return MViTV2S(LAYOUTS[spec.size], spec.crop_size, spec.task.logit_count)
