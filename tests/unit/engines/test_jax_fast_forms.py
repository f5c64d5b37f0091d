"""The fast forms of the JAX port against the plain ones beside them, in float64, gradients included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from shallow_transformers import make_transformers_shallow

from anatobench.engine import ModelSpec, load_engine
from anatobench.fast_forms import EVERY, FAST_FORMS
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import SEGMENTATION_LOSSES, Recipe
from anatobench.tasks import RATIC
from jax_impl.forms import DEFAULT_FORMS
from jax_impl.layers.batch_norm import batch_norm, fast_batch_norm, statistics_in_one_pass
from jax_impl.layers.upsampling import upsample_trilinear
from jax_impl.losses.segmentation import segmentation_loss
from jax_impl.losses.segmentation_by_parts import PLANES, segmentation_loss_by_parts

RNG = np.random.default_rng(0)


def test_defaults_are_forms_with_reasons() -> None:
    assert DEFAULT_FORMS.keys() == {"cpu", "gpu"}
    for forms in DEFAULT_FORMS.values():
        assert forms.keys() <= FAST_FORMS.keys()
        assert all(forms.values())


def test_products_of_the_hessian_take_the_plain_forms_whatever_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel has no derivative of its derivative."""
    make_transformers_shallow(monkeypatch)
    spec = ModelSpec("mvit_v2_s", "tiny", RATIC, (8, 16, 16))
    engine: Any = load_engine("jax", spec, Recipe(fast=EVERY))
    batch = parity_batch(spec, 2, seed=0, step=0)
    with engine._precision.applied():
        rest = (np.array([False]), np.float32(1e-3), np.uint32(0))
        step = engine._train_step.trace(0, engine._state, dict(batch.arrays), *rest)
        product = engine._hessian_product.trace(engine._state, engine._state.parameters, dict(batch.arrays))
    assert "pallas_call" in {equation.primitive.name for equation in equations_of(step.jaxpr.jaxpr)}
    assert "pallas_call" not in {equation.primitive.name for equation in equations_of(product.jaxpr.jaxpr)}


# Segmentation


def plain_segmentation_loss(recipe: Recipe, coarse: jax.Array, organs: jax.Array) -> jax.Array:
    depth, height, width = organs.shape[1:]
    return segmentation_loss(recipe, upsample_trilinear(coarse, (depth, height, width)), organs)


NOT_FULL = ((3, 5, 4), (2 * PLANES + 5, 9, 7))
SLABS = [
    *(pytest.param(kind, *NOT_FULL, id=f"{kind}-last-slab-not-full") for kind in SEGMENTATION_LOSSES),
    pytest.param("ce_dice", (2, 3, 3), (2 * PLANES, 6, 5), id="whole-slabs"),
    pytest.param("ce_dice", (4, 2, 3), (1, 3, 8), id="one-plane"),
]


def losses_and_gradient(
    function: Callable[..., jax.Array], recipe: Recipe, coarse: jax.Array, organs: np.ndarray, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def weighted(coarse: jax.Array) -> Any:
        loss = function(recipe, coarse, organs)
        return (loss * weight).sum(), loss

    gradient, losses = jax.grad(weighted, has_aux=True)(coarse)
    return losses, gradient


@pytest.mark.parametrize(("kind", "coarse_size", "size"), SLABS)
def test_segmentation_loss_by_parts(kind: str, coarse_size: tuple[int, ...], size: tuple[int, ...]) -> None:
    organs = RNG.integers(0, 5, (4, *size)).astype(np.uint8)  # organ 5 is nowhere
    organs[0, :, ::2] = 255
    organs[2] = 255
    organs[3] = 0
    with jax.enable_x64(True):
        coarse, weight = jnp.asarray(RNG.standard_normal((4, 6, *coarse_size))), jnp.asarray(RNG.standard_normal(4))
        expected, found = (
            [
                np.asarray(array)
                for array in jax.jit(partial(losses_and_gradient, function, Recipe(segmentation_loss=kind)))(
                    coarse, organs, weight
                )
            ]
            for function in (plain_segmentation_loss, segmentation_loss_by_parts)
        )
    assert expected[0][2] == found[0][2] == 0, "a case without a mask"
    assert (found[0][[0, 1, 3]] > 0).all()
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-12)


def test_a_derivative_of_the_gradient_of_the_loss_by_parts() -> None:
    organs = RNG.integers(0, 3, (2, PLANES + 3, 4, 3)).astype(np.uint8)
    with jax.enable_x64(True):
        coarse, weight = jnp.asarray(RNG.standard_normal((2, 3, 2, 2, 2))), jnp.ones(2)

        def of(function: Callable[..., jax.Array]) -> np.ndarray:
            def slope(coarse: jax.Array) -> jax.Array:
                gradient = losses_and_gradient(function, Recipe(segmentation_loss="ce_dice"), coarse, organs, weight)[1]
                return jnp.vdot(gradient, jnp.sin(coarse))

            return np.asarray(jax.jit(jax.grad(slope))(coarse))

        np.testing.assert_allclose(of(segmentation_loss_by_parts), of(plain_segmentation_loss), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", SEGMENTATION_LOSSES)
def test_the_logits_of_the_whole_batch_never_exist(kind: str) -> None:
    recipe, coarse, organs = Recipe(segmentation_loss=kind), (2, 6, 6, 3, 3), (2, 6 * PLANES, 48, 48)

    def largest(function: Callable[..., jax.Array]) -> int:
        def total(coarse: jax.Array, organs: jax.Array) -> jax.Array:
            return function(recipe, coarse, organs).sum()

        jaxpr = jax.make_jaxpr(jax.grad(total))(np.zeros(coarse, np.float32), np.zeros(organs, np.uint8))
        size: int = max(aval.size for aval in floats_of(jaxpr.jaxpr))
        return size

    whole = 2 * 6 * np.prod(organs[1:])
    assert largest(plain_segmentation_loss) == whole
    assert largest(segmentation_loss_by_parts) == whole / 6


def equations_of(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yield what a program does, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: isinstance(p, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, ClosedJaxpr):
                yield from equations_of(inner.jaxpr)
            elif isinstance(inner, Jaxpr):
                yield from equations_of(inner)


def floats_of(jaxpr: Jaxpr) -> Iterator[Any]:
    """Yield the shapes of all floating-point arrays in a program."""
    for equation in equations_of(jaxpr):
        shapes = [
            cast(ShapedArray, variable.aval) for variable in equation.outvars
        ]  # programs of arrays have no others
        yield from (shape for shape in shapes if jnp.issubdtype(shape.dtype, jnp.floating))


# BatchNorm

SIZE = (2, 3, 5, 7, 6)
ENDINGS = pytest.mark.parametrize(
    ("added", "relu"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["alone", "relu", "addition", "addition-relu"],
)


def of_batch_norm(function: Callable[..., Any], relu: bool, arrays: tuple[Any, ...], weight: jax.Array) -> Any:
    """Output, statistics, gradients by x, scale, bias and what is added, and gradients of a product with them."""
    places = tuple(place for place, array in enumerate(arrays) if array is not None)

    def weighted(*arrays: Any) -> Any:
        y, mean, variance = function(*arrays, relu, jnp.float64)
        return (y * weight).sum(), (y, mean, variance)

    def slope(*arrays: Any) -> jax.Array:
        gradients = jax.grad(weighted, places, has_aux=True)(*arrays)[0]
        return jnp.stack([jnp.vdot(gradient, jnp.sin(3 * gradient)) for gradient in gradients]).sum()

    return *jax.grad(weighted, places, has_aux=True)(*arrays), jax.grad(slope, places)(*arrays)


@ENDINGS
def test_batch_norm(added: bool, relu: bool) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(5.0 + 2.0 * RNG.standard_normal(SIZE))
        scale, bias = (jnp.asarray(RNG.standard_normal(6)) for _ in range(2))
        residual = jnp.asarray(RNG.standard_normal(SIZE)) if added else None
        weight = jnp.asarray(RNG.standard_normal(SIZE))
        expected, found = (
            jax.tree.map(
                np.asarray, jax.jit(partial(of_batch_norm, function, relu))((x, scale, bias, residual), weight)
            )
            for function in (batch_norm, fast_batch_norm)
        )
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("first", [0.0, 1000.0], ids=["alike", "its-sample-is-elsewhere"])
def test_variance_beside_a_large_mean(first: float) -> None:
    """E[x^2] - E[x]^2 in float32 would be wrong by a tenth here. The second case shifts half of the sampled voxels."""
    x = (1000.0 + RNG.standard_normal((2, 17, 18, 19, 3))).astype(np.float32)
    x[0, ::8, ::8, ::8] += first / 1000
    mean, variance = statistics_in_one_pass(jnp.asarray(x), jnp.float32)
    naive = jnp.square(x).mean((0, 1, 2, 3)) - jnp.square(jnp.mean(x, (0, 1, 2, 3)))
    exact = x.astype(np.float64).var((0, 1, 2, 3))
    assert abs(naive / exact - 1).max() > 1e-2, "the case must tell the two apart"
    np.testing.assert_allclose(variance, exact, rtol=1e-5)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean((0, 1, 2, 3)), rtol=2e-7)


def test_a_constant_channel_has_no_negative_variance() -> None:
    x = jnp.full((2, 5, 5, 5, 2), 0.1)
    _, variance = statistics_in_one_pass(x, jnp.float32)
    assert (variance >= 0).all()
    y, _, _ = fast_batch_norm(x, jnp.ones(2), jnp.zeros(2), None, False, jnp.float32)
    np.testing.assert_allclose(y, 0, atol=1e-3)


@ENDINGS
def test_batch_norm_keeps_no_map_in_float32(added: bool, relu: bool) -> None:
    x = jnp.asarray(RNG.standard_normal(SIZE), jnp.bfloat16)
    scale, bias = jnp.ones(6), jnp.zeros(6)
    residual = x + 1 if added else None
    _, pull_back = jax.vjp(
        lambda x, residual: fast_batch_norm(x, scale, bias, residual, relu, jnp.bfloat16)[0], x, residual
    )
    kept = [array for array in jax.tree.leaves(pull_back) if array.size >= x.size]
    assert [array.dtype for array in kept] == [jnp.bfloat16] * (1 + added)
