"""Every Triton kernel compiles for A100 and H100, within what one program may have of shared memory. No GPU needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from triton_kernels import SHARED_MEMORY, compile_kernel, require_compiler

from torch_ref.layers import depthwise_conv3d, depthwise_walk, segmentation_kernels, window_kernels
from torch_ref.layers.triton_language import accumulator


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


# Every kernel for every GPU and in every form, but not for each GPU in each form: what a form may do wrong is found in
# Triton's own languages, before the GPU matters. Window attention's products are compiled in another way for each.


@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.float32), (90, torch.bfloat16)])
@pytest.mark.parametrize("name", ["_forward_kernel", "_input_gradient_kernel", "_kernel_gradient_kernel"])
def test_depthwise_conv3d(name: str, dtype: torch.dtype, capability: int) -> None:
    kernel = getattr(depthwise_conv3d, name)
    constants = {"HEAD": 96, "BP": depthwise_conv3d.POSITIONS, "BC": 64, "ACC": accumulator(dtype)[1]}
    constants |= {"CHUNK": depthwise_conv3d.POSITIONS_OF_GRADIENT}
    pointers = dict.fromkeys(("x", "y", "kernel", "gradient", "x_gradient"), dtype) | {"partial": torch.float32}
    compiled = compile_kernel(kernel, capability, pointers, constants)
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]


@pytest.mark.parametrize(
    ("capability", "stride", "dtype"), [(90, 1, torch.bfloat16), (80, 2, torch.float32), (80, 8, torch.bfloat16)]
)
@pytest.mark.parametrize("name", ["_walk_kernel", "_walk_kernel_gradient_kernel"])
def test_depthwise_walk(name: str, stride: int, dtype: torch.dtype, capability: int) -> None:
    kernel = getattr(depthwise_walk, name)
    rows = depthwise_walk.TILE // 32
    constants = {"HEAD": 96, "SW": stride, "ROWS": rows, "BC": 32, "ACC": accumulator(dtype)[1]}
    constants |= {"LENGTH": depthwise_walk.LENGTH, "MIRRORED": False}
    pointers = dict.fromkeys(("x", "y", "kernel", "gradient"), dtype) | {"partial": torch.float32}
    compiled = compile_kernel(kernel, capability, pointers, constants, ("C", "x_case", "y_case"))
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]


@pytest.mark.parametrize(("capability", "classes", "dice"), [(90, 6, False), (80, 7, True)])
@pytest.mark.parametrize("name", ["_sums_kernel", "_sums_gradient_kernel"])
def test_segmentation_kernels(name: str, classes: int, dice: bool, capability: int) -> None:
    kernel = getattr(segmentation_kernels, name)
    constants = {"K": classes, "DICE": dice, "SLICES": segmentation_kernels.SLICES, "IGNORED": 255}
    constants |= {"CELLS": 16, "SLOTS": 16, "ACC": accumulator(torch.float32)[1]}
    pointers = dict.fromkeys(("coarse", "partial", "gradient", "ends"), torch.float32) | {"organs": torch.uint8}
    compiled = compile_kernel(kernel, capability, pointers, constants)
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]


@pytest.mark.parametrize(("capability", "dtype"), [(80, torch.bfloat16), (90, torch.bfloat16), (80, torch.float32)])
@pytest.mark.parametrize(
    "name", ["_forward_kernel", "_query_gradient_kernel", "_key_value_gradient_kernel", "_bias_gradient_kernel"]
)
def test_window_kernels(name: str, dtype: torch.dtype, capability: int) -> None:
    kernel = getattr(window_kernels, name)
    constants = window_kernels._constants(torch.empty(1, 3, 294, 32, dtype=dtype), torch.empty(1, 294))
    options = {option: constants.pop(option) for option in ("num_warps", "num_stages") if option in constants}
    tensors = ("q", "k", "v", "gradient", "output", "q_gradient", "k_gradient", "v_gradient")
    pointers = dict.fromkeys(tensors, dtype) | {"regions": torch.int32}
    pointers |= dict.fromkeys(("bias", "log_sums", "offsets", "bias_shares"), torch.float32)
    divisible = [name for name in kernel.arg_names if name.endswith(("_window", "_head", "_row", "padded"))]
    compiled = compile_kernel(kernel, capability, pointers, constants, divisible, **options)
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
