"""Where no kernel can run: CPU tensors take the plain forms, with and without Triton installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_ref.layers.depthwise_conv3d import depthwise_conv3d
from torch_ref.layers.triton_language import kernels_run_on

ROOT = Path(__file__).parents[3]


def test_layers_import_without_triton() -> None:
    code = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from torch_ref.layers.depthwise_conv3d import depthwise_conv3d\n"
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
