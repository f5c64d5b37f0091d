"""MViT's layers in JAX against torchvision's, in float64, gradients included."""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layer_comparison import assert_same_output_and_gradients
from torch import nn
from torchvision.models.video import mvit as torchvision_mvit

from anatobench.tasks import Size
from jax_impl.layers.depthwise_conv3d import depthwise_conv3d
from jax_impl.layers.multiscale_attention import MultiscaleAttention, max_pool_in_plane
from jax_impl.layers.relative_positions import relative_index

GENERATOR = np.random.default_rng(0)
CHANNELS, OUTPUTS, HEADS = 6, 8, 2


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 3, 1)])
def test_depthwise_convolution_and_its_gradients(stride: Size) -> None:
    x, kernel = GENERATOR.standard_normal((2, 4, 7, 10, 3)), GENERATOR.standard_normal((3, 3, 3, 3))
    torch_x = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    torch_kernel = torch.tensor(np.moveaxis(kernel, -1, 0)[:, None], requires_grad=True)
    expected = F.conv3d(torch_x, torch_kernel, stride=stride, padding=1, groups=3)
    weight = GENERATOR.standard_normal(tuple(expected.shape))
    gradients = torch.autograd.grad((expected * torch.tensor(weight)).sum(), (torch_x, torch_kernel))
    with jax.enable_x64(True):
        found, pullback = jax.vjp(partial(depthwise_conv3d, stride=stride), jnp.asarray(x), jnp.asarray(kernel))
        found_x, found_kernel = pullback(jnp.asarray(np.moveaxis(weight, 1, -1)))
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 1), expected.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(found_x, -1, 1), gradients[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.moveaxis(found_kernel, -1, 0)[:, None], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grid", [(2, 6, 8), (3, 5, 7)], ids=["even", "odd"])
def test_max_pooling_leaves_the_class_token_alone(grid: Size) -> None:
    tokens = -1.0 - GENERATOR.random((2, 1 + int(np.prod(grid)), 4))  # negative: a border of zeros would win
    pool = torchvision_mvit.Pool(nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), None)
    torch_tokens = torch.tensor(tokens, requires_grad=True)
    expected, _ = pool(torch_tokens, grid)
    weight = GENERATOR.standard_normal(tuple(expected.shape))
    (gradient,) = torch.autograd.grad((expected * torch.tensor(weight)).sum(), torch_tokens)
    with jax.enable_x64(True):
        found, pullback = jax.vjp(partial(max_pool_in_plane, grid=grid, stride=2), jnp.asarray(tokens))
        (found_gradient,) = pullback(jnp.asarray(weight))
    np.testing.assert_array_equal(found, expected.detach())
    np.testing.assert_allclose(found_gradient, gradient, rtol=1e-14)


def torchvisions_distance(queries: int, keys: int) -> torch.Tensor:
    """Return the lines of `_add_rel_pos`, along one axis."""
    query_ratio, key_ratio = max(keys / queries, 1.0), max(queries / keys, 1.0)
    distance = torch.arange(queries)[:, None] * query_ratio
    return (distance - (torch.arange(keys)[None, :] + (1.0 - keys)) * key_ratio).long()


def test_relative_index_truncates_as_torchvision_does() -> None:
    lengths = [*range(1, 30), 44, 48, 88, 96]
    for queries in lengths:
        for keys in lengths:
            np.testing.assert_array_equal(relative_index(queries, keys), torchvisions_distance(queries, keys))
    exact = np.arange(11)[:, None] - (np.arange(6)[None] - 5) * (11 / 6)
    assert (relative_index(11, 6) != np.round(exact)).any(), "the case must tell truncation from rounding"


@pytest.mark.parametrize(
    ("grid", "query_stride", "key_stride"),
    [
        pytest.param((2, 6, 6), 1, 2, id="more-queries-than-keys"),
        pytest.param((2, 6, 6), 2, 1, id="more-keys-than-queries"),
        pytest.param((3, 5, 8), 2, 4, id="tables-interpolated-and-halves-uneven"),
        pytest.param((3, 7, 5), 1, 4, id="ratio-not-whole"),
    ],
)
def test_multiscale_attention(grid: Size, query_stride: int, key_stride: int) -> None:
    torch.manual_seed(0)
    reference = torchvision_mvit.MultiscaleAttention(
        list(grid),
        CHANNELS,
        OUTPUTS,
        HEADS,
        kernel_q=[3, 3, 3],
        kernel_kv=[3, 3, 3],
        stride_q=[1, query_stride, query_stride],
        stride_kv=[1, key_stride, key_stride],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    tables = (reference.rel_pos_t, reference.rel_pos_h, reference.rel_pos_w)
    rows_t, rows_h, rows_w = (cast(nn.Parameter, table).shape[0] for table in tables)
    layer = MultiscaleAttention(
        grid,
        (rows_t, rows_h, rows_w),
        CHANNELS,
        OUTPUTS,
        HEADS,
        (1, query_stride, query_stride),
        (1, key_stride, key_stride),
        epsilon=1e-6,
        deviation=1.0,
        dtype=jnp.float64,
        generator=GENERATOR,
    )
    x = GENERATOR.standard_normal((2, 1 + int(np.prod(grid)), CHANNELS))
    assert_same_output_and_gradients(layer, lambda layer, x: layer(x), reference, lambda x: reference(x, grid)[0], x)
