"""The auxiliary head's fused loss against PyTorch's upsampling (see test_interpreted.py)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from triton_kernels import outputs_and_gradients

from anatobench.tasks import Size
from torch_ref.layers.segmentation_kernels import KINDS, segmentation_loss_fused, segmentation_loss_plain
from torch_ref.layers.triton_language import kernels_run_on

Case = tuple[int, int, Size, Size]
CASES: list[tuple[Case, str]] = [
    # batch, classes, coarse size, full size
    ((2, 3, (2, 2, 3), (5, 4, 10)), "ce_dice"),
    ((2, 2, (1, 1, 1), (3, 3, 3)), "ce"),
    ((1, 3, (4, 3, 6), (2, 3, 3)), "dice"),
]
AT_FULL_RATIO: list[Case] = [(1, 6, (1, 1, 12), (1, 4, 192)), (1, 7, (2, 1, 11), (2, 2, 176))]


def inputs(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    batch, classes, coarse_size, size = case
    generator = torch.Generator().manual_seed(7)
    coarse = 3 * torch.randn(batch, classes, *coarse_size, generator=generator, dtype=torch.float64)
    organs = torch.randint(0, classes, (batch, *size), generator=generator, dtype=torch.uint8)
    organs[torch.rand(organs.shape, generator=generator) < 0.2] = 255
    return coarse.to(dtype), organs


def compare(case: Case, kind: str) -> None:
    coarse, organs = inputs(case)
    assert kernels_run_on(coarse)
    fast = outputs_and_gradients(partial(segmentation_loss_fused, kind=kind, smooth=0.5), coarse, organs)
    plain = outputs_and_gradients(partial(segmentation_loss_plain, kind=kind, smooth=0.5), coarse, organs)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("case", "kind"), CASES, ids=str)
def test_equals_plain(case: Case, kind: str) -> None:
    compare(case, kind)


def test_every_kind_is_compared() -> None:
    assert {kind for _, kind in CASES} == set(KINDS)


@pytest.mark.parametrize("case", AT_FULL_RATIO, ids=str)
def test_equals_plain_at_full_ratio(case: Case) -> None:
    compare(case, "ce_dice")


def test_a_case_without_mask_and_logits_far_apart() -> None:
    coarse, organs = inputs((2, 3, (1, 2, 2), (2, 3, 4)))
    coarse, organs[1] = 500 * coarse, 255
    loss, gradient = outputs_and_gradients(
        partial(segmentation_loss_fused, kind="ce_dice", smooth=0.5), coarse.float(), organs
    )
    exact = segmentation_loss_plain(coarse, organs, "ce_dice", 0.5)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    assert loss[1] == 0
    assert not gradient[1].any()
    assert gradient.isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of opcheck itself
def test_registrations() -> None:
    coarse, organs = inputs((2, 2, (1, 1, 2), (1, 2, 5)), torch.float32)
    operation = torch.ops.anatobench.segmentation_sums.default
    torch.library.opcheck(operation, (coarse.requires_grad_(), organs, True))


def test_compiles_without_a_break() -> None:
    coarse, organs = inputs((2, 2, (1, 1, 2), (1, 2, 5)))
    compiled = torch.compile(segmentation_loss_fused, backend="aot_eager", fullgraph=True)
    fast = outputs_and_gradients(partial(compiled, kind="ce_dice", smooth=0.5), coarse, organs)
    plain = outputs_and_gradients(partial(segmentation_loss_plain, kind="ce_dice", smooth=0.5), coarse, organs)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-13)
