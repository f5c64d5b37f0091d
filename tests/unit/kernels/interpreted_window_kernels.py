"""Window attention's kernels against all logits at once (see test_interpreted.py)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_kernels import outputs_and_gradients

from torch_ref.layers import window_kernels as layer
from torch_ref.layers.triton_language import kernels_run_on
from torch_ref.layers.window_kernels import window_attention, window_attention_plain

SIZES = [
    # windows, heads, n, d, windows of a case or 0 without regions
    (4, 2, 70, 16, 2),
    (1, 1, 130, 32, 1),
    (2, 3, 7, 5, 0),
    (1, 1, 64, 16, 1),
    (1, 1, 1, 1, 0),
]


def inputs(
    case: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """q, k, v as a layer of all three gives them, bias, regions."""
    windows, heads, n, d, windows_of_case = case
    generator = torch.Generator().manual_seed(11)
    qkv = torch.randn(windows, n, 3, heads, d, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(heads, n, n, generator=generator, dtype=torch.float64).to(dtype)
    regions = torch.randint(0, 3, (windows_of_case, n), generator=generator, dtype=torch.int32)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return q, k, v, bias, regions if windows_of_case else None


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_equals_plain(case: tuple[int, ...]) -> None:
    parts = inputs(case)
    assert kernels_run_on(parts[0])
    fast = outputs_and_gradients(window_attention, *parts)
    plain = outputs_and_gradients(window_attention_plain, *parts)
    assert len(fast) == 5
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    assert fast[0].transpose(1, 2).is_contiguous()


def test_bias_gradient_of_several_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = inputs((5, 1, 9, 16, 5))
    gradients = []
    for programs in (1, 3, 100):
        monkeypatch.setattr(layer, "BIAS_PROGRAMS", programs)
        gradients.append(outputs_and_gradients(window_attention, *parts)[-1])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-12)


def test_any_strides() -> None:
    q, k, v, bias, regions = inputs((2, 2, 9, 16, 2))
    q, v = q.contiguous(), v.transpose(2, 3).contiguous().transpose(2, 3)
    fast = window_attention(q, k, v, bias.transpose(1, 2), regions)
    torch.testing.assert_close(fast, window_attention_plain(q, k, v, bias.transpose(1, 2), regions), rtol=0, atol=1e-12)


def test_half_precision_softmax_is_float32() -> None:
    """Logits near 2,000 that differ by less than float16's step there. (The interpreter multiplies no bfloat16.)"""
    parts = inputs((2, 1, 33, 16, 1), torch.float16)
    bias = 2000 + 0.2 * inputs((2, 1, 33, 16, 1), torch.float32)[3]
    fast = outputs_and_gradients(window_attention, *parts[:3], bias, parts[4])
    exact = outputs_and_gradients(window_attention_plain, *(part.float() for part in parts[:3]), bias, parts[4])
    assert [part.dtype for part in fast] == [torch.float16] * 4 + [torch.float32]
    for mine, theirs in zip(fast, exact, strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=0, atol=2**-9 * theirs.abs().max().item())


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of opcheck itself
@pytest.mark.parametrize("windows_of_case", [0, 1])
def test_registrations(windows_of_case: int) -> None:
    q, k, v, bias, regions = inputs((2, 1, 3, 2, windows_of_case), torch.float32)
    bias = torch.nn.functional.pad(bias, (0, 61, 0, 61))  # as whole blocks
    arguments = (*(part.detach().requires_grad_() for part in (q, k, v, bias)), regions)
    torch.library.opcheck(torch.ops.anatobench.window_attention.default, arguments)


def test_compiles_without_a_break() -> None:
    parts = inputs((2, 2, 9, 16, 2))
    compiled = torch.compile(window_attention, backend="aot_eager", fullgraph=True)
    fast, plain = (outputs_and_gradients(form, *parts) for form in (compiled, window_attention_plain))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)


def test_windows_that_are_not_whole_cases_are_refused() -> None:
    q, k, v, bias, _ = inputs((4, 1, 3, 2, 0))
    with pytest.raises(ValueError, match="4 windows are no whole cases of 3"):
        window_attention(q, k, v, bias, torch.zeros(3, 3, dtype=torch.int32))
