"""Swin3D's layers in JAX against torchvision's, in float64, gradients included."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from layer_comparison import assert_same_output_and_gradients
from torch import nn
from torchvision.models.swin_transformer import PatchMerging as TorchPatchMerging
from torchvision.models.video import swin_transformer as torchvision_swin

from anatobench.tasks import Size
from jax_impl.layers.window_attention import WindowAttention, fitted_window, relative_position_index, shift_regions
from jax_impl.models.swin3d_t import PatchMerging

GENERATOR = np.random.default_rng(0)
WINDOW = (8, 5, 5)
SHIFT = (4, 2, 2)


@pytest.mark.parametrize("shift", [(0, 0, 0), SHIFT], ids=["straight", "shifted"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((6, 10, 10), id="window-shrinks-in-depth"),
        pytest.param((10, 6, 7), id="padded-on-all-axes"),
        pytest.param((3, 7, 4), id="window-shrinks-in-depth-and-width"),
        pytest.param((8, 3, 2), id="window-covers-the-map"),
    ],
)
def test_window_attention(size: Size, shift: Size) -> None:
    torch.manual_seed(0)
    reference = torchvision_swin.ShiftedWindowAttention3d(8, list(WINDOW), list(shift), 2).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer = WindowAttention(8, 2, WINDOW, shift, deviation=1.0, dtype=jnp.float64, generator=GENERATOR)
    x = GENERATOR.standard_normal((2, *size, 8))
    assert_same_output_and_gradients(layer, lambda layer, x: layer(x), reference, reference, x)


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 5, 7)], ids=["even", "odd"])
def test_patch_merging(size: Size) -> None:
    torch.manual_seed(0)
    reference = TorchPatchMerging(6, norm_layer=lambda channels: nn.LayerNorm(channels, eps=1e-5)).double()
    layer = PatchMerging(6, dtype=jnp.float64, generator=GENERATOR)
    x = 0.01 * GENERATOR.standard_normal((2, *size, 6))  # small: with a large one the epsilon would not show
    assert_same_output_and_gradients(layer, lambda layer, x: layer(x, None), reference, reference, x)


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((16, 10, 15), WINDOW, SHIFT), ((6, 10, 10), (6, 5, 5), (0, 2, 2))]
)
def test_regions_mask_what_torchvision_masks(size: Size, window: Size, shift: Size) -> None:
    mask = torchvision_swin._compute_attention_mask_3d(torch.zeros(1), size, window, shift).numpy()
    regions = shift_regions(size, window, shift)
    np.testing.assert_array_equal(np.where(regions[:, :, None] == regions[:, None], 0.0, -100.0), mask)
    assert (mask != 0).any()


def test_relative_position_index_is_torchvisions() -> None:
    reference = torchvision_swin.ShiftedWindowAttention3d(8, list(WINDOW), list(SHIFT), 2)
    np.testing.assert_array_equal(relative_position_index(WINDOW), reference.relative_position_index)


@pytest.mark.parametrize("size", [(6, 24, 24), (10, 5, 4), (8, 6, 5)])
def test_window_fits_as_torchvisions(size: Size) -> None:
    window, shift = torchvision_swin._get_window_and_shift_size(list(SHIFT), list(size), list(WINDOW))
    assert fitted_window(size, WINDOW, SHIFT) == (tuple(window), tuple(shift))
