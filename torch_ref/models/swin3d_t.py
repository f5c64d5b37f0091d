"""Swin3D-T: torchvision's SwinTransformer3d with the paper's patch (Table 7), and the tiny one of the same class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import PatchEmbed3d, ShiftedWindowAttention3d, SwinTransformer3d

from anatobench.backbones.swin3d_t import CARD, STOCHASTIC_DEPTH, Layout
from anatobench.engine import ModelSpec
from torch_ref.layers.window_attention import with_fast_forms


class Swin3DT(SwinTransformer3d):
    """[B, 1, D, H, W] to a feature map at 1/16 of the size (full), or 1/4 x 1/8 x 1/8 (tiny), rounded up."""

    memory_format = torch.contiguous_format
    """Its blocks have channels last by themselves."""

    def __init__(self, layout: Layout, class_count: int, forms: frozenset[str] = frozenset()) -> None:
        super().__init__(
            patch_size=list(layout.patch),
            embed_dim=layout.channels,
            depths=list(layout.depths),
            num_heads=list(layout.heads),
            window_size=list(layout.window),
            stochastic_depth_prob=STOCHASTIC_DEPTH,
            num_classes=class_count,
            patch_embed=partial(PatchEmbed3d, in_channels=1),  # Table 7: CT has one channel
        )
        self.feature_channels = self.num_features
        for module in self.modules():
            if isinstance(module, ShiftedWindowAttention3d):
                with_fast_forms(module, forms)

    def stages(self) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        """Return the patches, every block and merging, then the normalised map; all [B, C, d, h, w]."""
        stages: list[tuple[str, Callable[[Tensor], Tensor]]] = [("patch_embed", self._patch_embed)]
        for index, stage in enumerate(self.features):
            if isinstance(stage, nn.Sequential):
                stages += [
                    (f"features.{index}.{position}", _with_channels_first(block))
                    for position, block in enumerate(stage)
                ]
            else:
                stages.append((f"features.{index}", _with_channels_first(stage)))
        return [*stages, ("norm", _with_channels_first(self.norm))]

    def _patch_embed(self, x: Tensor) -> Tensor:
        patches: Tensor = self.patch_embed(x)
        return patches.permute(0, 4, 1, 2, 3)

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits]."""
        logits: Tensor = self.head(pooled)
        return logits


def _with_channels_first(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """torchvision's layers want channels last, where they stay in memory: both permutations are views."""
    return lambda x: layer(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


def build_swin3d_t(spec: ModelSpec, forms: frozenset[str]) -> Swin3DT:
    """Return the backbone for a spec; it takes any crop size."""
    return Swin3DT(CARD.layout(spec.size), spec.task.logit_count, forms)
