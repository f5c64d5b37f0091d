"""The parity ladder is green for the two engines as they are, and red at the right rung for every planted fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from seeded_faults import FAULTS, Fault

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.parity.climb import TOLERANCES as TOLERANCES_OF_DTYPE
from anatobench.parity.inputs import parity_recipe
from anatobench.parity.ladder import Ladder, Rung
from anatobench.tasks import RATIC
from jax_impl.engine import JaxEngine

SPEC = ModelSpec("r3d_18", "tiny", RATIC, crop_size=(16, 24, 20))
RECIPE = parity_recipe("float64", seed=0)
TOLERANCES = TOLERANCES_OF_DTYPE["float64"]


@pytest.fixture(scope="module")
def jax_engine() -> Engine:
    """Built once: its compiled functions serve every test."""
    return load_engine("jax", SPEC, RECIPE)


@pytest.fixture(scope="module")
def initial_weights(jax_engine: Engine) -> Arrays:
    return jax_engine.weights()


def climb(reference: Engine, candidate: Engine, weights: Arrays) -> Iterator[Rung]:
    reference.load_weights(weights)
    ladder = Ladder(reference, candidate, steps=2, backward=True, batch_size=3, seed=0, tolerances=TOLERANCES)
    return ladder.climb()


def first_red_rung(rungs: Iterator[Rung]) -> str | None:
    """Climbs no further."""
    return next((rung.name for rung in rungs if not rung.passed), None)


def test_the_engines_agree(jax_engine: Engine, initial_weights: Arrays) -> None:
    rungs = list(climb(jax_engine, load_engine("torch", SPEC, RECIPE), initial_weights))
    assert [rung.name for rung in rungs if not rung.passed] == []
    kinds = {rung.kind for rung in rungs}
    assert kinds >= {"shapes", "weights", "activations", "logits", "seg_logits", "loss", "grads", "params", "optimizer"}
    # Far enough under the tolerance that it is rounding, and not all exactly 0, which would be one engine twice.
    errors = [rung.difference.error for rung in rungs if rung.kind != "prediction"]
    assert TOLERANCES.gradients is not None
    assert 0 < max(errors) < TOLERANCES.gradients / 10


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_turns_its_rung_red(
    fault: Fault, monkeypatch: pytest.MonkeyPatch, jax_engine: Engine, initial_weights: Arrays
) -> None:
    fault.plant(monkeypatch)
    rungs = climb(jax_engine, load_engine("torch", SPEC, RECIPE), initial_weights)
    assert first_red_rung(rungs) == fault.first_red_rung


def test_a_wrong_permutation_in_the_weight_table_turns_the_stem_red(
    monkeypatch: pytest.MonkeyPatch, jax_engine: Engine, initial_weights: Arrays
) -> None:
    """In and out by the same wrong table, the round trip is the identity; only the forward pass can tell."""
    assert isinstance(jax_engine, JaxEngine)
    wrong = [
        replace(entry, permutation=(4, 3, 2, 1, 0)) if len(entry.shape) == 5 else entry for entry in jax_engine._table
    ]
    monkeypatch.setattr(jax_engine, "_table", wrong)
    rungs = climb(jax_engine, load_engine("torch", SPEC, RECIPE), initial_weights)
    assert first_red_rung(rungs) == "stage stem"


def test_losing_a_bit_on_the_way_turns_the_round_trip_red(
    monkeypatch: pytest.MonkeyPatch, jax_engine: Engine, initial_weights: Arrays
) -> None:
    torch_engine = load_engine("torch", SPEC, RECIPE)
    load = torch_engine.load_weights
    monkeypatch.setattr(
        torch_engine, "load_weights", lambda weights: load({n: w.astype(np.float32) for n, w in weights.items()})
    )
    rungs = climb(jax_engine, torch_engine, initial_weights)
    assert first_red_rung(rungs) == "weights there and back"
