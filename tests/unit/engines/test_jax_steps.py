"""A step of the JAX engine is one program, compiled once, that reuses its state's memory and waits for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import jax_impl.engine as engine_module
from anatobench.engine import ModelSpec, load_engine
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC
from jax_impl import parallel

SPEC = ModelSpec("r3d_18", "tiny", RATIC, crop_size=(16, 24, 16))
BATCHES = [parity_batch(SPEC, 3, seed=0, step=step) for step in range(3)]
SMALLER = parity_batch(SPEC, 2, seed=0, step=0)
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def engine() -> Any:
    return load_engine("jax", SPEC, Recipe(seed=3))


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Yield one entry for every program that JAX has compiled, or fetched from its cache, since."""
    found: list[str] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


def test_one_program_a_step_whatever_the_epoch_does(engine: Any, compiled: list[str]) -> None:
    """Any operation outside the compiled step would be a program of its own."""
    steps = iter(range(100))
    for expected, work in (
        (1, lambda: engine.train_step(BATCHES[0], 1e-3, next(steps))),
        (0, lambda: [engine.train_step(batch, 1e-3 / (1 + i), next(steps)).fetch() for i, batch in enumerate(BATCHES)]),
        (1, lambda: engine.predict(BATCHES[0]["volume"])),
        (1, lambda: engine.predict(SMALLER["volume"])),
        (0, lambda: engine.train_step(BATCHES[1], 1e-4, next(steps), stop=True).fetch()),
        (0, lambda: [engine.predict(batch["volume"]) for batch in (BATCHES[1], SMALLER)]),
        (1, lambda: engine.train_step(SMALLER, 1e-3, next(steps)).fetch()),
        (0, lambda: [engine.train_step(batch, 1e-3, next(steps)).fetch() for batch in (BATCHES[0], SMALLER)]),
        (
            0,
            lambda: (
                engine.load_weights(engine.weights()),
                engine.load_state({"optimizer": engine.state()["optimizer"]}),
            ),
        ),
        (0, lambda: engine.train_step(BATCHES[0], 1e-3, next(steps)).fetch()),
    ):
        compiled.clear()
        work()
        assert len(compiled) == expected


def test_a_step_takes_the_memory_of_the_state_before(engine: Any) -> None:
    before = jax.tree.leaves(engine._state)
    engine.train_step(BATCHES[0], 1e-3, 0)  # a donation in vain would be a warning, which is an error here
    assert all(array.is_deleted() for array in before)


class NumpyWithoutDevice:
    """numpy that refuses to copy an array from the device."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return self._refusing(found) if name in ("array", "asarray", "ascontiguousarray") else found

    @staticmethod
    def _refusing(function: Any) -> Any:
        def call(array: Any, *rest: Any, **options: Any) -> Any:
            assert not isinstance(array, jax.Array), "the host waits for the device"
            return function(array, *rest, **options)

        return call


def test_a_step_waits_for_nothing(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """(JAX's own transfer guard lets everything pass on a CPU.)"""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the host waits for the device")

    for module in (engine_module, parallel):
        monkeypatch.setattr(module, "np", NumpyWithoutDevice())
    for name in ("__float__", "__int__", "__bool__", "item", "tolist", "block_until_ready"):
        monkeypatch.setattr(type(jax.numpy.zeros(1)), name, refuse)
    pending = [engine.train_step(batch, 1e-3, step) for step, batch in enumerate(BATCHES)]
    with pytest.raises(AssertionError, match="waits"):
        pending[-1].fetch()


@pytest.mark.slow
def test_a_step_is_the_same_to_the_bit_in_every_form_of_the_recipe_that_jax_ignores(engine: Any) -> None:
    """`compile` is PyTorch's."""
    initial = engine.weights()
    found = []
    for compile_ in ("true", "false"):
        other = load_engine("jax", SPEC, replace(Recipe(seed=3), compile=compile_))
        other.load_weights(initial)
        found.append(other.train_step(BATCHES[0], 1e-3, 0).fetch().case_losses.tobytes())
    assert found[0] == found[1]
