"""MViT-v2-S: torchvision's MViT with the paper's patch and positional encoding (Table 7), and the tiny one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleBlock, MViT

from anatobench.backbones.mvit_v2_s import CARD, STOCHASTIC_DEPTH, Layout, token_grids
from anatobench.engine import ModelSpec
from anatobench.errors import UsageError
from anatobench.tasks import Size
from torch_ref.layers.multiscale_attention import with_fast_forms


class MViTV2S(MViT):
    """[B, 1, D, H, W] of one size to a feature map at 1/16 of it (full), or 1/4 x 1/8 x 1/8 (tiny)."""

    memory_format = torch.contiguous_format
    """Tokens have channels last by themselves, and cuDNN's depthwise gradients in `channels_last_3d` took 2.6 s a step
    on an H100."""

    def __init__(self, layout: Layout, crop_size: Size, class_count: int, forms: frozenset[str] = frozenset()) -> None:
        depth, height, width = crop_size
        super().__init__(
            spatial_size=(height, width),
            temporal_size=depth,
            block_setting=_block_settings(layout),
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
        for block, grid in zip(self.blocks, self.grids, strict=False):  # the last grid is the result's
            with_fast_forms(cast(MultiscaleBlock, block).attn, grid, forms)

    def stages(self) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        """Return the patches and every block as tokens [B, 1 + d h w, C], class token first, then the map [B, C, d, h,
        w]."""
        stages: list[tuple[str, Callable[[Tensor], Tensor]]] = [("patch_embed", self._patch_embed)]
        for index, block in enumerate(self.blocks):
            apply = partial(_apply_block, cast(MultiscaleBlock, block), grid=self.grids[index])
            stages.append((f"blocks.{index}", apply))
        return [*stages, ("norm", self._feature_map)]

    def _patch_embed(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x)
        if tuple(x.shape[2:]) != self.grids[0]:
            raise UsageError(f"this model was built for {self.grids[0]} patches and was given {tuple(x.shape[2:])}")
        tokens: Tensor = self.pos_encoding(x.flatten(2).transpose(1, 2))
        return tokens

    def _feature_map(self, x: Tensor) -> Tensor:
        patches: Tensor = self.norm(x)[:, 1:]  # the class token goes: the paper averages F instead
        feature_map: Tensor = patches.transpose(1, 2).unflatten(2, self.grids[-1])
        return feature_map

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits]. torchvision's head with its dropout, on averaged F where torchvision gives it the
        class token."""
        logits: Tensor = self.head(pooled)
        return logits


def _block_settings(layout: Layout) -> list[MSBlockConfig]:
    """torchvision's form of the table."""
    return [
        MSBlockConfig(
            num_heads=heads,
            input_channels=layout.channels[index],
            output_channels=layout.channels[index + 1],
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, layout.query_strides[index], layout.query_strides[index]],
            stride_kv=[1, layout.key_value_strides[index], layout.key_value_strides[index]],
        )
        for index, heads in enumerate(layout.heads)
    ]


def _apply_block(block: MultiscaleBlock, x: Tensor, grid: Size) -> Tensor:
    tokens: Tensor = block(x, grid)[0]
    return tokens


def build_mvit_v2_s(spec: ModelSpec, forms: frozenset[str]) -> MViTV2S:
    """Return the backbone for a spec; it takes scans of `spec.crop_size` only."""
    return MViTV2S(CARD.layout(spec.size), spec.crop_size, spec.task.logit_count, forms)
