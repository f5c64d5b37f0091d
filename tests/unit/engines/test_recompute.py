"""Recomputing saves memory and changes no gradient, whatever is drawn at random on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.experimental.compilation_cache import compilation_cache
from shallow_transformers import make_transformers_shallow

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.errors import UsageError
from anatobench.parity.comparison import largest_difference
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC

SPEC = ModelSpec("swin3d_t", "tiny", RATIC, (20, 16, 16))
RECIPE = Recipe(precision="fp64", seed=3)
BATCH = parity_batch(SPEC, 3, seed=0, step=0)


def build(framework: str, recompute: bool) -> Any:
    return load_engine(framework, SPEC, replace(RECIPE, recompute=recompute))


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_gradients_and_draws_are_the_same(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block is recomputed in another way than one before it."""
    make_transformers_shallow(monkeypatch)
    engines: list[Engine] = [build(framework, recompute) for recompute in (False, True)]
    plain, recomputed = (engine.inspect(BATCH) for engine in engines)
    assert (
        largest_difference({"logits": plain.outputs["logits"]}, {"logits": recomputed.outputs["logits"]}).error < 1e-12
    )
    assert largest_difference(plain.gradients, recomputed.gradients).error < 1e-11
    # Without dropout the gradients are others: so the recomputed pass must have drawn what the first one drew. (Where
    # nothing is drawn, one framework's gradients are the other's.)
    still = load_engine("torch", SPEC, replace(RECIPE, dropout=False))
    still.load_weights(engines[0].weights())
    assert largest_difference(plain.gradients, still.inspect(BATCH).gradients).error > 1e-3


def test_torch_keeps_less_for_the_backward_pass() -> None:
    assert kept_by_torch(build("torch", True)) < kept_by_torch(build("torch", False)) / 4


def kept_by_torch(engine: Any) -> int:
    """Bytes of every tensor that autograd keeps of a forward pass, views of one memory counted once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = sum(array.nbytes for array in engine.weights().values())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine._features(torch.from_numpy(BATCH["volume"]))
    of_the_pass: int = sum(kept.values()) - parameters
    return of_the_pass


@pytest.fixture
def no_compilation_cache() -> Iterator[None]:
    """Turn the cache off: a program that comes out of it no longer knows its memory."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("no_compilation_cache")
def test_xla_plans_less_memory() -> None:
    assert planned_by_xla(build("jax", True)) < planned_by_xla(build("jax", False)) / 2


def planned_by_xla(engine: Any) -> int:
    """Bytes of temporary memory of the compiled training step."""
    with engine._precision.applied():
        rest = (np.array([False]), np.float64(1e-3), np.uint32(0))
        step = engine._train_step.lower(0, engine._state, dict(BATCH.arrays), *rest)
        analysis = step.compile().memory_analysis()
    return int(analysis.temp_size_in_bytes)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_model_with_batch_norm_refuses(framework: str) -> None:
    with pytest.raises(UsageError, match="BatchNorm"):
        load_engine(framework, replace(SPEC, model="r3d_18"), replace(RECIPE, recompute=True))
