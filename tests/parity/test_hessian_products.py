"""Products of the Hessian: the derivative of the gradient, and the same in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from shallow_transformers import make_transformers_shallow

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.parity.comparison import largest_difference
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import MODELS
from anatobench.tasks import get_task
from anatobench.training.sharpness import sharpness

pytest.importorskip("torch")
pytest.importorskip("jax")
pytestmark = pytest.mark.slow

TASK = get_task("ratic")
CROP = (8, 16, 20)


@pytest.fixture(scope="module", autouse=True)
def shallow_transformers() -> Iterator[None]:
    """No block has another derivative than one before it."""
    with pytest.MonkeyPatch.context() as patch:
        make_transformers_shallow(patch)
        yield
    engines_of.cache_clear()


@cache
def engines_of(model: str) -> tuple[Engine, Engine]:
    """PyTorch's and JAX's, once: what they compile serves every test."""
    spec, recipe = ModelSpec(model, "tiny", TASK, CROP), parity_recipe("float64", seed=1)
    return load_engine("torch", spec, recipe), load_engine("jax", spec, recipe)


def pair(model: str) -> tuple[ModelSpec, Engine, Engine]:
    """With weights that no test before has moved."""
    engines = engines_of(model)
    weights = perturbed_weights(load_engine("torch", engines[0].spec, engines[0].recipe).weights(), seed=2)
    for engine in engines:
        engine.load_weights(weights)
    return engines[0].spec, *engines


def direction_for(engine: Engine) -> Arrays:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(shape) for name, shape in engine.parameter_shapes().items()}


@pytest.mark.parametrize("model", MODELS)
def test_both_frameworks_give_the_derivative_of_the_gradient(model: str) -> None:
    spec, torch_engine, jax_engine = pair(model)
    batch = parity_batch(spec, 2, seed=3, step=0)
    assert torch_engine.parameter_shapes() == jax_engine.parameter_shapes()
    direction, before = direction_for(torch_engine), torch_engine.weights()
    expected = torch_engine.hessian_product(batch, direction)
    assert largest_difference(expected, jax_engine.hessian_product(batch, direction)).error < 1e-9
    for engine in (torch_engine, jax_engine):
        assert largest_difference(before, engine.weights()).error == 0, "nothing is changed"

    gradients, step = [], 1e-9  # so short that no ReLU and no max-pooling changes its mind
    for distance in (step, -step):
        moved = {name: array + distance * direction.get(name, 0.0) for name, array in before.items()}
        torch_engine.load_weights(moved)
        gradients.append(torch_engine.inspect(batch).gradients)
    slope = {name: (ahead - gradients[1][name]) / (2 * step) for name, ahead in gradients[0].items()}
    assert largest_difference(expected, slope).error < 1e-4


def test_both_frameworks_are_as_sharp() -> None:
    spec, torch_engine, jax_engine = pair("r3d_18")
    batch = parity_batch(spec, 2, seed=3, step=0)
    expected, found = (sharpness(engine, batch, iterations=6) for engine in (torch_engine, jax_engine))
    assert found.iterations == expected.iterations
    assert found.largest_eigenvalue == pytest.approx(expected.largest_eigenvalue, rel=1e-9)


def test_what_is_drawn_at_random_is_the_same_in_every_product() -> None:
    """Or Lanczos' method would see another matrix at every iteration."""
    spec = ModelSpec("swin3d_t", "tiny", TASK, CROP)
    recipe = replace(parity_recipe("float64", seed=1), dropout=True)
    engine = load_engine("torch", spec, recipe)
    batch, direction = parity_batch(spec, 2, seed=3, step=0), direction_for(engine)
    once, again = (engine.hessian_product(batch, direction) for _ in range(2))
    assert largest_difference(once, again).error == 0
