"""The Pallas kernels of the depthwise convolution, interpreted against the plain sum of taps, and lowered for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anatobench.tasks import Size
from jax_impl.layers import depthwise_conv3d as plain_module
from jax_impl.layers import depthwise_kernels as kernels
from jax_impl.layers.depthwise_conv3d import depthwise_conv3d, fast_depthwise_conv3d

RNG = np.random.default_rng(0)
CASES = [
    pytest.param((2, 4, 7, 10, 3), (1, 1, 1), id="odd"),
    pytest.param((2, 4, 7, 10, 3), (1, 2, 2), id="strided"),
    pytest.param((1, 5, 7, 6, 2), (1, 4, 4), id="gaps"),
    pytest.param((1, 4, 7, 10, 3), (2, 3, 1), id="all-different"),
    pytest.param((1, 1, 1, 1, 1), (1, 2, 2), id="one-voxel"),
    pytest.param((1, 2, 3, 4, kernels.WIDEST + 5), (1, 1, 1), id="two-blocks-of-channels"),
    pytest.param((1, 8, 12, 12, 2), (1, 1, 1), id="two-chunks-of-positions"),
]


@pytest.mark.parametrize(("shape", "stride"), CASES)
def test_values_and_gradients(shape: tuple[int, ...], stride: Size) -> None:
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(RNG.standard_normal(shape)), jnp.asarray(RNG.standard_normal((3, 3, 3, shape[-1])))
        expected, pull_back = jax.vjp(partial(depthwise_conv3d, stride=stride), x, kernel)
        gradient = jnp.asarray(RNG.standard_normal(expected.shape))
        found, fast_pull_back = jax.vjp(partial(fast_depthwise_conv3d, stride=stride), x, kernel)
        pairs = [(found, expected), *zip(fast_pull_back(gradient), pull_back(gradient), strict=True)]
    for ours, plain in pairs:
        assert ours.dtype == plain.dtype
        np.testing.assert_allclose(ours, plain, rtol=1e-11, atol=1e-12)


def test_there_are_cases_beyond_every_block() -> None:
    shapes = [cast(tuple[int, ...], case.values[0]) for case in CASES]  # pytest keeps no types
    assert any(np.prod(shape[1:4]) > kernels.CHUNK for shape in shapes)
    assert any(shape[-1] > kernels.WIDEST for shape in shapes)


@pytest.mark.parametrize("form", [depthwise_conv3d, fast_depthwise_conv3d], ids=["plain", "fast"])
def test_bfloat16_is_summed_in_float32(form: Callable[..., jax.Array]) -> None:
    """27 terms of one sign: summed in bfloat16 they would be off by a percent."""
    x = jnp.asarray(RNG.random((1, 6, 9, 8, 2)), jnp.bfloat16)
    kernel = jnp.asarray(RNG.random((3, 3, 3, 2)), jnp.bfloat16)
    expected, pull_back = jax.vjp(
        partial(depthwise_conv3d, stride=(1, 1, 1)), x.astype(jnp.float32), kernel.astype(jnp.float32)
    )
    found, own_pull_back = jax.jit(lambda *arrays: jax.vjp(partial(form, stride=(1, 1, 1)), *arrays))(x, kernel)
    gradients = zip(own_pull_back(jnp.ones_like(found)), pull_back(jnp.ones_like(expected)), strict=True)
    for ours, plain in ((found, expected), *gradients):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(np.float32), plain, rtol=2**-8)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2)])
def test_they_lower_for_a_gpu(stride: Size, dtype: jnp.dtype) -> None:
    """Without one: by way of Triton, three kernels. Whether they run well there is not measured."""
    size, pooled = (6, 24, 24), (6, 24 // stride[1], 24 // stride[2])
    x, y, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, *size, 96), (2, *pooled, 96), (3, 3, 3, 96)))
    programs: dict[str, tuple[Callable[..., jax.Array], tuple[jax.ShapeDtypeStruct, ...]]] = {
        "depthwise_sum_of_taps": (partial(kernels.convolve, stride=stride, size=pooled, interpret=False), (x, kernel)),
        "depthwise_kernel_gradient": (partial(kernels.kernel_gradient, stride=stride, interpret=False), (x, y)),
    }
    for name, (function, arrays) in programs.items():
        text = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
        assert "triton" in text
        assert name in text
    text = (
        jax.jit(partial(kernels.input_gradient, stride=stride, size=size, interpret=False))
        .trace(y, kernel)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    assert "depthwise_sum_of_taps" in text


def test_an_array_too_large_for_the_kernels_takes_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = jnp.asarray(RNG.standard_normal((1, 2, 3, 4, 2))), jnp.asarray(RNG.standard_normal((3, 3, 3, 2)))
    monkeypatch.setattr(kernels, "LARGEST", x.size - 1)
    monkeypatch.delattr(kernels, "convolve")
    monkeypatch.delattr(kernels, "input_gradient")
    found, pull_back = jax.vjp(partial(fast_depthwise_conv3d, stride=(1, 1, 1)), x, kernel)
    np.testing.assert_array_equal(found, depthwise_conv3d(x, kernel, (1, 1, 1)))
    assert len(pull_back(found)) == 2


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 3, 1)])
def test_the_plain_kernel_gradient_of_a_gpu_is_that_of_a_cpu(stride: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """27 reductions in place of a loop."""
    x = jnp.asarray(RNG.standard_normal((2, 4, 7, 10, 3)), jnp.float32)
    gradient = jnp.ones_like(depthwise_conv3d(x, jnp.ones((3, 3, 3, 3)), stride))
    looped = plain_module._kernel_gradient(x, gradient, stride)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "while" not in jax.jit(partial(plain_module._kernel_gradient, stride=stride)).lower(x, gradient).as_text()
    np.testing.assert_allclose(plain_module._kernel_gradient(x, gradient, stride), looped, rtol=1e-5, atol=1e-5)
