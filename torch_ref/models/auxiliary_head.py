"""The auxiliary head: a 1x1x1 convolution on the feature map, whose output is upsampled to the input's size."""

from __future__ import annotations

from torch import nn


class AuxiliaryHead(nn.Conv3d):
    """F [B, C, d, h, w] to coarse logits [B, classes, d, h, w].

    It keeps PyTorch's own initialisation of a convolution, which is what a head added to a torchvision model gets:
    weight and bias uniform in +-1/sqrt(C). (VideoResNet's fan-out rule would start with logits of deviation 10.)
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, kernel_size=1)
