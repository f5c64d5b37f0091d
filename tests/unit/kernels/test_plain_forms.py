"""Where no kernel can run: CPU tensors take the plain forms, with and without Triton installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from torch_ref.layers.depthwise_conv3d import depthwise_conv3d
from torch_ref.layers.segmentation_kernels import segmentation_loss_fused
from torch_ref.layers.triton_language import kernels_run_on
from torch_ref.layers.window_kernels import window_attention
from torch_ref.losses.segmentation import dice_loss, voxel_cross_entropy

ROOT = Path(__file__).parents[3]


def test_layers_import_without_triton() -> None:
    code = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from torch_ref.layers.depthwise_conv3d import depthwise_conv3d\n"
        "import torch_ref.layers.segmentation_kernels, torch_ref.layers.window_kernels\n"
        "y = depthwise_conv3d(torch.ones(1, 2, 3, 4, 5), torch.ones(3, 3, 3, 5), (1, 1, 1))\n"
        "assert y[0, 0, 0, 0, 0] == 8 and y[0, 0, 1, 1, 0] == 18\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_depthwise_conv3d_is_conv3d_of_each_channel() -> None:
    x = torch.randn(2, 3, 5, 7, 6, dtype=torch.float64)
    if kernels_run_on(x):
        pytest.skip("TRITON_INTERPRET is set: this would be the kernel")
    kernel = torch.randn(3, 3, 3, 3, dtype=torch.float64)
    y = depthwise_conv3d(x, kernel, (1, 2, 3))
    conv = torch.nn.Conv3d(1, 1, 3, (1, 2, 3), padding=1, bias=False, dtype=torch.float64)
    for channel in range(6):
        conv.weight.data[0, 0] = kernel[..., channel % 3]
        torch.testing.assert_close(y[..., channel], conv(x[:, None, ..., channel])[:, 0])


def test_segmentation_loss_is_that_of_upsampled_logits() -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(3, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    organs = torch.randint(0, 4, (3, 5, 6, 7), generator=generator, dtype=torch.uint8)
    organs[0, :, :3], organs[1] = 255, 255
    if kernels_run_on(coarse):
        pytest.skip("TRITON_INTERPRET is set: this would be the kernel")
    logits, valid = F.interpolate(coarse, size=(5, 6, 7), mode="trilinear"), organs != 255
    entropy, dice = voxel_cross_entropy(logits, organs.long(), valid), dice_loss(logits, organs.long(), valid, 0.5)
    assert entropy[1] == dice[1] == 0
    for kind, expected in {"ce": entropy, "dice": dice, "ce_dice": entropy + dice}.items():
        torch.testing.assert_close(segmentation_loss_fused(coarse, organs, kind, 0.5), expected)
    with pytest.raises(ValueError, match="pass one of ce, dice, ce_dice"):
        segmentation_loss_fused(coarse, organs, "focal", 0.5)


def test_window_attention_is_scaled_dot_product_attention() -> None:
    q, k, v = torch.randn(3, 4, 2, 6, 5, dtype=torch.float64)
    bias = torch.randn(2, 6, 6, dtype=torch.float64)
    regions = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 3]], dtype=torch.int32)
    if kernels_run_on(q):
        pytest.skip("TRITON_INTERPRET is set: this would be the kernel")
    torch.testing.assert_close(
        window_attention(q, k, v, bias, None), F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    )
    shifted = window_attention(q, k, v, bias, regions)
    for window in range(4):  # two cases of two windows
        apart = regions[window % 2][:, None] != regions[window % 2][None, :]
        mask = bias + torch.where(apart, -100.0, 0.0)
        alone = F.scaled_dot_product_attention(q[window], k[window], v[window], attn_mask=mask)
        torch.testing.assert_close(shifted[window], alone)
