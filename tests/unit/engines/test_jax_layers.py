"""JAX's layers against PyTorch's own, in float64, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_impl.layers.batch_norm import BatchNorm
from jax_impl.layers.conv3d import conv3d, conv3d_direct, conv3d_folded
from jax_impl.layers.upsampling import interpolation_matrix, upsample_trilinear


def channels_first(x: np.ndarray | jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


CONVOLUTIONS = [
    pytest.param(conv3d_folded, (5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), id="folded"),
    pytest.param(conv3d_folded, (5, 6, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1), id="folded-strided-odd-and-even"),
    pytest.param(conv3d_folded, (7, 5, 8), (4, 3, 2), (3, 1, 2), (2, 0, 1), id="folded-all-different"),
    pytest.param(conv3d_direct, (5, 6, 7), (3, 3, 3), (2, 1, 2), (1, 1, 1), id="direct"),
    pytest.param(conv3d, (5, 6, 7), (2, 2, 2), (2, 2, 2), (0, 0, 0), id="patches-with-a-rest"),
    pytest.param(conv3d, (5, 6, 7), (1, 1, 1), (2, 2, 2), (0, 0, 0), id="pointwise-strided"),
]


@pytest.mark.parametrize(("function", "size", "kernel_size", "stride", "padding"), CONVOLUTIONS)
def test_convolution_and_its_gradients_equal_torch(
    function: Callable[..., jax.Array],
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3)), rng.standard_normal((*kernel_size, 3, 4))
    torch_x = torch.tensor(channels_first(x), requires_grad=True)
    torch_kernel = torch.tensor(kernel.transpose(4, 3, 0, 1, 2), requires_grad=True)
    expected = torch.nn.functional.conv3d(torch_x, torch_kernel, stride=stride, padding=padding)
    weight = rng.standard_normal(expected.shape)
    expected_gradients = torch.autograd.grad((expected * torch.tensor(weight)).sum(), (torch_x, torch_kernel))
    with jax.enable_x64(True):

        def weighted(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = function(x, kernel, stride, padding)
            return (y * np.moveaxis(weight, 1, -1)).sum(), y

        gradients, found = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(channels_first(found), expected.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(channels_first(gradients[0]), expected_gradients[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradients[1].transpose(4, 3, 0, 1, 2), expected_gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "target"), [((2, 3, 4), (16, 9, 5)), ((1, 5, 3), (7, 5, 2)), ((3, 1, 2), (1, 8, 32))]
)
def test_upsampling_equals_torch_at_every_voxel(source: tuple[int, ...], target: tuple[int, int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, *source))
    torch_x = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.interpolate(torch_x, size=target, mode="trilinear", align_corners=False)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), torch_x)
    with jax.enable_x64(True):
        found = upsample_trilinear(jnp.asarray(x), target)
        gradient = jax.grad(lambda x: jnp.square(upsample_trilinear(x, target)).sum())(jnp.asarray(x))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


def test_interpolation_rows_are_weights() -> None:
    matrix = interpolation_matrix(6, 96)
    np.testing.assert_allclose(matrix.sum(1), 1.0, rtol=1e-15)
    assert (matrix >= 0).all()
    assert (np.count_nonzero(matrix, 1) <= 2).all()


def test_batch_norm_equals_torch_in_training_and_evaluation() -> None:
    rng = np.random.default_rng(2)
    x = 3.0 + 2.0 * rng.standard_normal((2, 3, 4, 5, 6))
    theirs = torch.nn.BatchNorm3d(6).double()
    with jax.enable_x64(True):
        ours = BatchNorm(6, dtype=jnp.float64)
        for name, start in (("running_mean", jnp.zeros(6)), ("running_var", jnp.ones(6))):
            setattr(ours, name, nnx.BatchStat(start))
        for ours_name, theirs_name in (("scale", "weight"), ("bias", "bias")):
            values = rng.standard_normal(6)
            setattr(ours, ours_name, nnx.Param(jnp.asarray(values)))
            getattr(theirs, theirs_name).data = torch.tensor(values)
        for _ in range(3):
            found = ours(jnp.asarray(x), train=True)
            expected = theirs(torch.tensor(channels_first(x)))
            np.testing.assert_allclose(channels_first(found), expected.detach(), rtol=1e-12, atol=1e-13)
        for variable, buffer in ((ours.running_mean, theirs.running_mean), (ours.running_var, theirs.running_var)):
            assert buffer is not None
            np.testing.assert_allclose(variable[...], buffer, rtol=1e-12)
        theirs.eval()
        found = ours(jnp.asarray(x), train=False)
        np.testing.assert_allclose(
            channels_first(found), theirs(torch.tensor(channels_first(x))).detach(), rtol=1e-12, atol=1e-13
        )


def test_batch_norm_keeps_its_statistics_in_float32_under_bfloat16() -> None:
    x = (1000.0 + np.random.default_rng(3).standard_normal((2, 3, 4, 5, 1))).astype(np.float32)
    norm = BatchNorm(1, dtype=jnp.bfloat16)
    assert norm(jnp.asarray(x), train=True).dtype == jnp.bfloat16
    assert norm.running_var[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.running_var[...], 0.9 + 0.1 * x.var(ddof=1), rtol=1e-4)
    assert isinstance(norm.running_mean, nnx.BatchStat)
