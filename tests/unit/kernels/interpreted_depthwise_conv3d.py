"""The depthwise convolution's kernels against PyTorch's grouped convolution (see test_interpreted.py)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from triton_kernels import outputs_and_gradients

from anatobench.tasks import Size
from torch_ref.layers import depthwise_conv3d as layer
from torch_ref.layers import depthwise_walk
from torch_ref.layers.depthwise_conv3d import depthwise_conv3d, depthwise_conv3d_plain
from torch_ref.layers.triton_language import kernels_run_on

Case = tuple[int, Size, int, int, Size]
SHAPES: list[Case] = [
    # batch, size, channels, channels of the kernel, stride: as few programs as have a neighbour on every axis
    (2, (2, 3, 6), 6, 3, (1, 1, 1)),
    (1, (2, 3, 5), 40, 40, (1, 2, 2)),
    (1, (3, 3, 7), 64, 32, (2, 1, 1)),
    (1, (1, 9, 7), 5, 5, (1, 8, 4)),
    (1, (1, 1, 1), 2, 1, (1, 1, 1)),
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chunks of a block or two instead of one that is mostly empty and takes seconds."""
    monkeypatch.setattr(layer, "POSITIONS_OF_GRADIENT", layer.POSITIONS)


def inputs(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    batch, size, channels, own, _ = case
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, *size, channels, generator=generator, dtype=torch.float64)
    kernel = torch.randn(3, 3, 3, own, generator=generator, dtype=torch.float64)
    return x.to(dtype), kernel.to(dtype)


@pytest.mark.parametrize("walk", [False, True], ids=["blocks", "walk"])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_equals_plain(case: Case, walk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "WALK", walk)
    monkeypatch.setattr(depthwise_walk, "LENGTH", 3)
    monkeypatch.setattr(depthwise_walk, "LENGTH_OF_GRADIENT", 4)
    if case[0] == 1:  # the first has two chunks for each of two cases, these have chunks of two blocks
        monkeypatch.setattr(layer, "POSITIONS_OF_GRADIENT", 2 * layer.POSITIONS)
    x, kernel = inputs(case)
    assert kernels_run_on(x)
    fast = outputs_and_gradients(partial(depthwise_conv3d, stride=case[-1]), x, kernel)
    plain = outputs_and_gradients(partial(depthwise_conv3d_plain, stride=case[-1]), x, kernel)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    assert fast[0].is_contiguous()


def test_bfloat16_is_rounded_once() -> None:
    """Products of bfloat16 sum up in float32; a float32 kernel is rounded first and gets an unrounded gradient."""
    case: Case = (1, (2, 3, 4), 6, 3, (1, 1, 1))
    x, kernel = inputs(case, torch.bfloat16)
    close_by = kernel.float() * (1 + 2**-10)  # rounds back to `kernel`
    exact = outputs_and_gradients(partial(depthwise_conv3d_plain, stride=case[-1]), x.float(), kernel.float())
    fast = outputs_and_gradients(partial(depthwise_conv3d, stride=case[-1]), x, close_by)
    assert [part.dtype for part in fast] == [torch.bfloat16, torch.bfloat16, torch.float32]
    # (Triton's interpreter cuts to bfloat16 where a GPU rounds to nearest.)
    torch.testing.assert_close(fast[0].float(), exact[0], rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(fast[1].float(), exact[1], rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(fast[2], exact[2], rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of opcheck itself
def test_registrations() -> None:
    """Shapes without values, gradients under tracing, nothing mutated: what torch.compile relies on."""
    x, kernel = inputs((1, (2, 2, 3), 4, 2, (1, 1, 1)), torch.float32)
    arguments = (x.requires_grad_(), kernel.requires_grad_(), 1, 2, 2, True)
    torch.library.opcheck(torch.ops.anatobench.depthwise_conv3d.default, arguments)


def test_compiles_without_a_break() -> None:
    x, kernel = inputs((1, (2, 2, 3), 4, 2, (1, 1, 1)))
    compiled = torch.compile(depthwise_conv3d, backend="aot_eager", fullgraph=True)
    fast = outputs_and_gradients(partial(compiled, stride=(1, 1, 1)), x, kernel)
    plain = outputs_and_gradients(partial(depthwise_conv3d_plain, stride=(1, 1, 1)), x, kernel)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    x, _ = inputs(SHAPES[0])
    with pytest.raises(ValueError, match="does not fit 6 channels"):
        depthwise_conv3d(x, torch.zeros(3, 3, 3, 4), (1, 1, 1))
