"""The auxiliary head: a 1x1x1 convolution on the feature map, upsampled to the input's size."""

from __future__ import annotations

from torch import Tensor, nn

from anatobench.tasks import Size
from torch_ref.layers.upsampling import upsample_trilinear


class AuxiliaryHead(nn.Conv3d):
    """F [B, C, d, h, w] to logits [B, classes, D, H, W].

    It keeps PyTorch's own initialisation of a convolution, which is what a head added to a torchvision model gets:
    weight and bias uniform in +-1/sqrt(C). (VideoResNet's fan-out rule would start with logits of deviation 10.)
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, kernel_size=1)

    def forward(self, features: Tensor, size: Size) -> Tensor:  # type: ignore[override]
        """F [B, C, d, h, w] to logits [B, classes, *size]: trilinear with align_corners=False, as the paper's head."""
        return upsample_trilinear(self.coarse(features), size)

    def coarse(self, features: Tensor) -> Tensor:
        """Return the logits before their upsampling, [B, classes, d, h, w]."""
        return super().forward(features)
