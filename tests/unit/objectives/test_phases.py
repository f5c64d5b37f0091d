"""Phases whose trained sets overlap, with a teacher and heads that a phase does not use, in both frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from phased_kind import phased

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.objectives.heads import CLASSIFIER
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import FRAMEWORKS, override
from anatobench.tasks import RATIC

pytestmark = pytest.mark.usefixtures("shallow_models")

CROP = (8, 16, 16)
OBJECTIVE = Objective("diagnosis", ("volume", "organs", "targets"), {"classification": 1.0})


def engine_of(framework: str) -> Engine:
    recipe = override(parity_recipe("float64", 0), ["objective=phased"])
    return load_engine(framework, ModelSpec("r3d_18", "tiny", RATIC, CROP, plan_of(recipe, RATIC).heads), recipe)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Engine]:
    monkeypatch.setitem(KINDS, "phased", phased)
    found = {framework: engine_of(framework) for framework in FRAMEWORKS}
    weights = perturbed_weights(found["torch"].weights(), 0)
    for engine in found.values():
        engine.load_weights(weights)
    return found


def assert_close(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_both_frameworks_take_the_same_steps_and_swap_their_state(engines: dict[str, Engine]) -> None:
    spec = engines["torch"].spec
    for step, phase in enumerate((0, 0, 1, 2)):
        batch = parity_batch(spec, 3, 0, step)
        ours, theirs = (engines[f].train_step(batch, 1e-3, step, phase=phase).fetch() for f in FRAMEWORKS)
        assert list(ours.terms) == list(theirs.terms) == [["classification"], ["mask_dice"], ["segmentation"]][phase]
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-9)
    states = {framework: engine.state() for framework, engine in engines.items()}
    for tree in ("model", "optimizer", "teacher"):
        assert_close(states["torch"][tree], states["jax"][tree])
    # A head that a phase trains without using it is decayed and counted all the same.
    counts = {name: int(array) for name, array in states["torch"]["optimizer"].items() if name.startswith("step/")}
    assert counts["step/segmentation_head.weight"] == counts["step/fc.weight"] == 4
    assert (counts["step/stem.0.weight"], counts["step/layer1.0.conv1.0.weight"]) == (1, 2)
    for framework, other in (("torch", "jax"), ("jax", "torch")):
        engines[framework].load_state(states[other])
        np.testing.assert_equal(engines[framework].state(), states[other])

    for phase in range(3):
        of_torch, of_jax = (engines[framework].inspect(batch, phase=phase) for framework in FRAMEWORKS)
        assert list(of_torch.losses) == list(of_jax.losses)
        assert_close(of_torch.gradients, of_jax.gradients)
    direction = perturbed_weights({n: np.ones(s) for n, s in engines["torch"].parameter_shapes().items()}, 0)
    assert_close(*(engines[framework].hessian_product(batch, direction) for framework in FRAMEWORKS))


def test_step_counts_that_no_plan_of_these_phases_gives_are_refused(engines: dict[str, Engine]) -> None:
    engine = engines["jax"]
    moments: dict[str, Any] = engine.state()["optimizer"]
    moments |= {f"step/{name}": np.asarray(3, np.int64) for name in engine.parameter_shapes()}
    moments["step/fc.bias"] = np.asarray(2, np.int64)
    before = engine.state()
    with pytest.raises(AnatoBenchError, match=r"fc\.\w+ has \d steps"):
        engine.load_state({"optimizer": moments})
    np.testing.assert_equal(engine.state(), before)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_phase_that_trains_nothing_is_refused(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan((CLASSIFIER,), (Phase(OBJECTIVE), Phase(OBJECTIVE, trained=("backbone.fc.*",))), "auc_macro")
    monkeypatch.setitem(KINDS, "phased", lambda recipe, task: plan)
    with pytest.raises(UsageError, match=r"phase 2 of the plan trains no parameter .* backbone\.fc\.\*"):
        engine_of(framework)


def test_plans_that_cannot_be_trained_are_refused_when_they_are_made() -> None:
    with pytest.raises(UsageError, match="add volume"):
        Objective("toy", ("targets",), {"labels": 1.0})
    with pytest.raises(UsageError, match="no term"):
        Objective("toy", ("volume",), {})
    with pytest.raises(UsageError, match="epochs=0"):
        Phase(OBJECTIVE, epochs=0)
    with pytest.raises(UsageError, match=r"teacher=1\.5"):
        Phase(OBJECTIVE, teacher=1.5)
