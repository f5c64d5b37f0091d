"""A backbone with its linear classifier and auxiliary heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anatobench.tasks import Size
from torch_ref.layers.upsampling import upsample_trilinear
from torch_ref.models.auxiliary_head import AuxiliaryHead


class Backbone(Protocol):
    """See the package's docstring."""

    feature_channels: int
    memory_format: torch.memory_format

    def stages(self) -> Iterable[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield what leads from [B, 1, D, H, W] to the feature map [B, C, d, h, w], in order, by name."""

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits]."""


class DiagnosisModel(nn.Module):
    """Logits from globally averaged features; the auxiliary heads' logits from the features themselves."""

    def __init__(self, backbone: Backbone, auxiliary: Mapping[str, int], *, recompute: bool = False) -> None:
        """`auxiliary` gives each auxiliary head's name and classes; `recompute` keeps of each stage its input alone,
        and computes the rest again in the backward pass."""
        super().__init__()
        self.recompute = recompute
        self.backbone = cast(nn.Module, backbone)
        self.auxiliary = tuple(auxiliary)
        for name, classes in auxiliary.items():
            self.add_module(f"{name}_head", AuxiliaryHead(backbone.feature_channels, classes))

    def features(self, x: Tensor, record: Callable[[str, Tensor], None] | None = None) -> Tensor:
        """[B, 1, D, H, W] to the feature map [B, C, d, h, w]; `record` is shown every stage's output."""
        for name, stage in cast(Backbone, self.backbone).stages():
            x = checkpoint(stage, x, use_reentrant=False) if self.recompute else stage(x)
            if record is not None:
                record(name, x)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Global average pooling and the classifier: [B, logits] in the parameters' type."""
        pooled = features.to(self.head_dtype).mean((2, 3, 4))
        return cast(Backbone, self.backbone).classify(pooled)

    def coarse(self, head: str, features: Tensor) -> Tensor | None:
        """Return an auxiliary head's logits [B, classes, d, h, w] in the parameters' type; None for a model without
        it."""
        if head not in self.auxiliary:
            return None
        logits: Tensor = self.get_submodule(f"{head}_head")(features.to(self.head_dtype))
        return logits

    def upsampled(self, head: str, features: Tensor, size: Size) -> Tensor | None:
        """Return the same upsampled to [B, classes, D, H, W]: trilinear with align_corners=False, as the paper's
        head."""
        coarse = self.coarse(head, features)
        return None if coarse is None else upsample_trilinear(coarse, size)

    @property
    def memory_format(self) -> torch.memory_format:
        """The backbone's."""
        return cast(Backbone, self.backbone).memory_format

    @property
    def head_dtype(self) -> torch.dtype:
        """All heads are small: they compute in the parameters' type even where the backbone uses bfloat16."""
        return next(self.parameters()).dtype
