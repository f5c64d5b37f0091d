"""PyTorch's fast forms against torchvision's layers and the plain losses, in float64, gradients included."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from torchvision.models.video.mvit import MultiscaleAttention
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from anatobench.engine import ModelSpec, load_engine
from anatobench.fast_forms import FAST_FORMS
from anatobench.parity.comparison import largest_difference
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC, Size
from torch_ref.forms import ATTENTION_KERNELS, DEFAULT_FORMS
from torch_ref.layers import multiscale_attention, window_attention
from torch_ref.layers.attention import attention, fused_attention
from torch_ref.layers.upsampling import interpolate_axis, interpolation_matrix, upsample_trilinear
from torch_ref.losses.segmentation import segmentation_loss
from torch_ref.losses.segmentation_by_parts import segmentation_loss_by_parts

RTOL, ATOL = 1e-9, 1e-11


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def outcome(function: Callable[..., Tensor], *inputs: Tensor, module: nn.Module | None = None) -> list[Tensor]:
    """Return the result, and the gradients of a random projection of it by the inputs and the module's parameters."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    result = function(*inputs)
    wanted = [*inputs, *(module.parameters() if module is not None else ())]
    return [result, *torch.autograd.grad(result, wanted, drawn(*result.shape, seed=9))]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=RTOL, atol=ATOL)


WINDOWS = [
    ((6, 10, 15), (8, 5, 5), (4, 2, 2)),  # covered in depth: no shift there
    ((9, 11, 12), (4, 5, 5), (2, 2, 2)),  # padded on every axis
    ((4, 5, 10), (4, 5, 5), (0, 0, 0)),
    ((3, 4, 5), (4, 5, 5), (2, 2, 2)),  # one window, smaller than the model's
]


@pytest.mark.parametrize("form", ["window_attention", "window_kernel"])
@pytest.mark.parametrize(("size", "window", "shift"), WINDOWS)
def test_window_attention(size: Size, window: Size, shift: Size, form: str) -> None:
    torch.manual_seed(0)
    plain = ShiftedWindowAttention3d(12, list(window), list(shift), 2).double()
    nn.init.normal_(plain.relative_position_bias_table)
    fast = copy.deepcopy(plain)
    window_attention.with_fast_forms(fast, frozenset({form}))
    x = drawn(2, *size, 12)
    assert_equal(outcome(fast, x, module=fast), outcome(plain, x, module=plain))
    assert list(fast.state_dict()) == list(plain.state_dict())


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("shifted", [True, False])
def test_flex_attention_is_the_same_mathematics(shifted: bool) -> None:
    """On a CPU it has no backward pass, and no need of compilation."""
    queries, keys, values = drawn(3, 6, 2, 20, 8).unbind(0)
    bias = drawn(2, 20, 20)
    regions = torch.randint(0, 8, (3, 20), generator=torch.Generator().manual_seed(1)) if shifted else None
    arguments = (queries, keys, values, bias, regions)
    torch.testing.assert_close(
        window_attention.attend_with_flex(*arguments),
        window_attention.attend_with_columns(*arguments),
        rtol=RTOL,
        atol=ATOL,
    )


@pytest.mark.parametrize("forms", [{"attention"}, {"depthwise"}, {"attention", "depthwise"}])
@pytest.mark.parametrize(("grid", "stride_q", "stride_kv"), [((5, 4, 9), 2, 1), ((3, 7, 5), 1, 4), ((2, 5, 5), 1, 1)])
def test_multiscale_attention(forms: set[str], grid: Size, stride_q: int, stride_kv: int) -> None:
    """The grids' in-plane axes differ, so that one of the tables is interpolated."""
    torch.manual_seed(0)
    plain = MultiscaleAttention(
        list(grid), 12, 16, 2, [3] * 3, [3] * 3, [1, stride_q, stride_q], [1, stride_kv, stride_kv],
        residual_pool=True, residual_with_cls_embed=False,
        rel_pos_embed=True,
    ).double()  # fmt: skip
    for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w"):
        nn.init.normal_(getattr(plain, name))
    fast = copy.deepcopy(plain)
    multiscale_attention.with_fast_forms(fast, grid, frozenset(forms))
    fast.double()
    x = drawn(2, 1 + int(np.prod(grid)), 12)
    ours = outcome(lambda tokens: fast(tokens, grid)[0], x, module=fast)
    assert_equal(ours, outcome(lambda tokens: plain(tokens, grid)[0], x, module=plain))
    assert fast(x, grid)[1] == plain(x, grid)[1]
    assert list(fast.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("biased", [False, True])
def test_a_bias_does_not_go_to_the_kernel_that_has_no_gradient_for_it(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hopper's order puts cuDNN first; PyTorch does not pass it over for a bias that wants a gradient."""
    seen = []

    def note(queries: Tensor, *_: Tensor, **__: Tensor) -> Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return queries

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", note)
    with sdpa_kernel(ATTENTION_KERNELS, set_priority=True):
        queries, keys, values = drawn(3, 1, 2, 4, 8)
        fused_attention(queries, keys, values, drawn(1, 2, 4, 4).requires_grad_() if biased else None)
        assert torch.backends.cuda.cudnn_sdp_enabled()
    assert seen == [not biased]


def test_fused_attention_with_odd_channels_and_a_bias() -> None:
    queries, keys, values = drawn(2, 3, 7, 11), drawn(2, 3, 5, 11), drawn(2, 3, 5, 6)
    for bias in (None, drawn(1, 3, 7, 5)):
        torch.testing.assert_close(
            fused_attention(queries, keys, values, bias), attention(queries, keys, values, bias), rtol=RTOL, atol=ATOL
        )


@pytest.mark.parametrize(("coarse", "size"), [((1, 2, 3), (16, 5, 7)), ((6, 4, 5), (13, 4, 3)), ((2, 3, 1), (2, 9, 4))])
def test_upsampling_as_products(coarse: Size, size: Size) -> None:
    """Upwards, downwards and not at all."""

    def by_axes(x: Tensor) -> Tensor:
        for axis, length in zip((2, 3, 4), size, strict=True):
            x = interpolate_axis(x, axis, interpolation_matrix(x.shape[axis], length, x))
        return x

    x = drawn(2, 3, *coarse)
    assert_equal(outcome(by_axes, x), outcome(lambda x: upsample_trilinear(x, size), x))


@pytest.mark.parametrize("kind", ["ce", "dice", "ce_dice"])
@pytest.mark.parametrize("size", [(16, 6, 7), (19, 5, 4), (3, 4, 5)])
def test_the_segmentation_loss_by_parts(kind: str, size: Size) -> None:
    """Depths that eight parts share evenly, unevenly, and that are fewer than parts; one case without mask."""
    recipe = Recipe(segmentation_loss=kind, dice_smooth=0.7)
    organs = torch.randint(0, 4, (3, *size), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    organs[0, :2], organs[2] = 255, 255
    coarse = drawn(3, 4, 2, 3, 3)
    ours = outcome(lambda coarse: segmentation_loss_by_parts(recipe, coarse, organs), coarse)
    theirs = outcome(lambda coarse: segmentation_loss(recipe, upsample_trilinear(coarse, size), organs), coarse)
    assert_equal(ours, theirs)
    assert ours[0][2] == 0


def test_a_part_of_the_logits_is_all_that_is_kept() -> None:
    recipe = Recipe(segmentation_loss="ce_dice")
    coarse = drawn(2, 7, 3, 4, 4).requires_grad_()
    organs = torch.zeros((2, 48, 32, 32), dtype=torch.uint8)
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        segmentation_loss_by_parts(recipe, coarse, organs)
    assert kept <= 2 * organs.numel(), "organs and the map; the logits alone are seven times as many"


@pytest.mark.parametrize("model", ["mvit_v2_s", "swin3d_t"])
def test_the_engine_with_every_fast_form_is_the_engine_without(model: str) -> None:
    spec = ModelSpec(model, "tiny", RATIC, (20, 28, 36))
    recipe = parity_recipe("float64", seed=0)
    batch = parity_batch(spec, 2, 0, 0)
    engines = [load_engine("torch", spec, replace(recipe, fast=fast)) for fast in ("false", "true")]
    weights = perturbed_weights(engines[0].weights(), 0)
    for engine in engines:
        engine.load_weights(weights)
    plain, fast = (engine.inspect(batch) for engine in engines)
    for kind in ("activations", "gradients"):
        assert largest_difference(getattr(plain, kind), getattr(fast, kind)).error < 1e-9
    np.testing.assert_allclose(list(fast.losses.values()), list(plain.losses.values()), rtol=1e-10)
    direction = {name: np.ones(shape) for name, shape in engines[0].parameter_shapes().items()}
    products = [engine.hessian_product(batch, direction) for engine in engines]
    assert largest_difference(*products).error < 1e-9, "fused kernels cannot be differentiated twice"


def test_every_default_is_a_form_that_there_is() -> None:
    assert all(forms <= set(FAST_FORMS) for forms in DEFAULT_FORMS.values())
