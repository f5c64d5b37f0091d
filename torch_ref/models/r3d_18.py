"""R3D-18: torchvision's VideoResNet with the paper's stem (Table 7), and the tiny one of the same class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

from anatobench.backbones.r3d_18 import CARD, LAYOUTS, STEM_STRIDE, Layout
from anatobench.engine import ModelSpec


class Stem(nn.Sequential):
    """Table 7: one input channel, kernel and stride 2 in all three axes; BatchNorm and ReLU stay."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv3d(1, width, kernel_size=STEM_STRIDE, stride=STEM_STRIDE, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )


class R3D18(VideoResNet):
    """[B, 1, D, H, W] to a feature map at 1/16 (full) or 1/4 (tiny) of the size."""

    memory_format = torch.channels_last_3d
    """From which cuDNN's 3D convolutions reach the tensor cores."""

    def __init__(self, layout: Layout, class_count: int) -> None:
        stem = partial(Stem, layout.width)
        arguments = (BasicBlock, [Conv3DSimple] * 4, [layout.blocks] * 4, stem, class_count)
        if layout == LAYOUTS["full"]:
            super().__init__(*arguments)
        else:
            with torch.device("meta"):  # VideoResNet fixes its widths and strides, so all of it is replaced
                super().__init__(*arguments)
            self._rebuild(layout, class_count)
        self.feature_channels = self.fc.in_features

    def _rebuild(self, layout: Layout, class_count: int) -> None:
        self.stem = Stem(layout.width)
        self.inplanes = layout.width
        for index, stride in enumerate(layout.strides):
            planes = layout.width * 2**index
            stage = self._make_layer(BasicBlock, Conv3DSimple, planes, layout.blocks, stride)
            setattr(self, f"layer{index + 1}", stage)
        self.fc = nn.Linear(self.inplanes, class_count)
        self.apply(_initialise)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield the stem, [B, 1, D, H, W] to [B, C, d, h, w], then every residual block on such maps."""
        yield "stem", self.stem
        for index in range(1, 5):
            for position, block in enumerate(getattr(self, f"layer{index}")):
                yield f"layer{index}.{position}", block

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, C] to [B, logits]."""
        logits: Tensor = self.fc(pooled)
        return logits


def _initialise(module: nn.Module) -> None:
    """Initialise the layers as VideoResNet.__init__ does (torchvision/models/video/resnet.py)."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm3d):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def build_r3d_18(spec: ModelSpec, forms: frozenset[str]) -> R3D18:
    """Return the backbone for a spec; it takes any crop size. (BatchNorm, addition and ReLU are one pass where the step
    is compiled; no layer has a form of its own here.)"""
    return R3D18(CARD.layout(spec.size), spec.task.logit_count)
