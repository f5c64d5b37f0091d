"""Every Triton kernel compiles for A100 and H100, within what one program may have of shared memory. No GPU needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from triton_kernels import SHARED_MEMORY, compile_kernel, require_compiler

from torch_ref.layers import depthwise_conv3d
from torch_ref.layers.triton_language import accumulator


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiler()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


both_capabilities = pytest.mark.parametrize("capability", SHARED_MEMORY)
both_types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


@both_capabilities
@both_types
@pytest.mark.parametrize("name", ["_forward_kernel", "_input_gradient_kernel", "_kernel_gradient_kernel"])
def test_depthwise_conv3d(name: str, dtype: torch.dtype, capability: int) -> None:
    kernel = getattr(depthwise_conv3d, name)
    constants = {"HEAD": 96, "BP": depthwise_conv3d.POSITIONS, "BC": 64, "ACC": accumulator(dtype)[1]}
    constants |= {"CHUNK": depthwise_conv3d.POSITIONS_OF_GRADIENT}
    pointers = {"x": dtype, "y": dtype, "gradient": dtype, "x_gradient": dtype}
    pointers |= {"kernel": torch.float32, "partial": torch.float32}
    compiled = compile_kernel(kernel, capability, pointers, constants)
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
