"""A case's own weight multiplies what its findings cost, in both frameworks alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeded_faults import in_dict
from tiny_store import FINDINGS, write_store

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.registry import plan_of
from anatobench.parity.climb import TOLERANCES
from anatobench.parity.inputs import parity_batch, parity_recipe
from anatobench.parity.ladder import Ladder
from anatobench.recipes import Recipe
from anatobench.store.batches import training_batches
from anatobench.store.reader import Store
from anatobench.store.writer import StoreWriter
from anatobench.tasks import RATIC, Size
from torch_ref.losses import CASE_TERMS

pytestmark = pytest.mark.usefixtures("shallow_models")

CROP: Size = (12, 20, 24)
WEIGHTED = replace(RATIC, case_weights=True)
RECIPE = parity_recipe("float64", seed=0)
BOTH = pytest.mark.parametrize("framework", ["torch", "jax"])


def engine_of(framework: str, task: Any = WEIGHTED) -> Engine:
    return load_engine(framework, ModelSpec("r3d_18", "tiny", task, CROP), RECIPE)


@pytest.fixture(scope="module")
def jax_engine() -> Engine:
    return engine_of("jax")


def reweighted(store: Store, weights: Mapping[str, float]) -> Store:
    """Return the store with other weights of some cases, as a relabelling leaves it."""
    writer = StoreWriter(store.root)
    for case in store.cases:
        writer.write_record(replace(case, weight=weights.get(case.case_id, 1.0)))
    writer.finish()
    return Store.open(store.root)


def test_a_batch_holds_weights_only_where_cases_have_them(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    before = (tmp_path / "store" / "index.json").read_bytes()
    assert b"weight" not in before
    assert reweighted(store, {}).cases == store.cases
    assert (tmp_path / "store" / "index.json").read_bytes() == before, "a weight of 1 leaves no trace"
    assert plan_of(Recipe(), FINDINGS).phases[0].objective.reads == ("volume", "organs", "targets")
    own = {f"train_{number}": 0.5 + number for number in range(8)}
    weighted = reweighted(store, own)
    reads = plan_of(Recipe(), replace(FINDINGS, case_weights=True)).phases[0].objective.reads
    assert reads == ("volume", "organs", "targets", "weight")
    with training_batches(weighted, 7, 4, reads=lambda step: reads) as batches, training_batches(store, 7, 4) as plain:
        for batch, other in islice(zip(batches, plain, strict=True), 4):
            assert batch["weight"].dtype == np.float32
            assert batch["weight"].shape == (4, 1)
            assert batch["weight"][:, 0].tolist() == [own[weighted.cases[index].case_id] for index in batch.case_index]
            assert "weight" not in other.arrays
            for name, array in other.arrays.items():
                np.testing.assert_array_equal(batch[name], array)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_record_with_an_impossible_weight_is_damaged(tmp_path: Path, weight: float) -> None:
    store = write_store(tmp_path / "store", sizes={"train": 2})
    StoreWriter(store.root).write_record(replace(store.cases[0], weight=weight))
    assert StoreWriter(store.root).finished(store.cases[0].case_id) is None


@BOTH
def test_the_classification_loss_is_the_mean_of_weight_times_loss(framework: str, jax_engine: Engine) -> None:
    """Cases of one weight cost that much more than without, and their organs what they did."""
    plain = engine_of(framework, RATIC)
    weighted = jax_engine if framework == "jax" else engine_of(framework)
    weighted.load_weights(plain.weights())
    batch = parity_batch(plain.spec, 3, seed=0, step=1)
    batch["weight"][...] = 2.5
    before, after = (engine.inspect(batch).losses for engine in (plain, weighted))
    for term in ("classification", "any_injury"):
        assert after[term] == pytest.approx(2.5 * before[term], rel=1e-12)
    assert after["segmentation"] == before["segmentation"]


def climb(jax_engine: Engine, steps: int) -> dict[str, bool]:
    """Return of each rung whether it is green."""
    torch_engine = engine_of("torch")
    jax_engine.load_weights(torch_engine.weights())
    rungs = Ladder(torch_engine, jax_engine, steps, True, 3, 0, TOLERANCES["float64"]).climb()
    return {rung.name: rung.passed for rung in rungs}


@pytest.mark.slow
def test_the_frameworks_agree_to_ten_steps(jax_engine: Engine) -> None:
    rungs = climb(jax_engine, steps=10)
    assert [name for name, passed in rungs.items() if not passed] == []
    assert {"losses", "gradients", "10 steps: parameters"} <= rungs.keys()


def test_weights_that_one_framework_ignores_turn_the_losses_red(
    jax_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignoring(right: Any) -> Any:
        return lambda task, recipe, view, arrays: right(
            task, recipe, view, {name: array for name, array in arrays.items() if name != "weight"}
        )

    in_dict(CASE_TERMS, "diagnosis", ignoring)(monkeypatch)
    rungs = climb(jax_engine, steps=0)
    assert next(name for name, passed in rungs.items() if not passed) == "losses"
