"""`frozen_backbone`: the heads are trained on the features of evaluation, and the backbone stays to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.registry import plan_of
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import FRAMEWORKS, override
from anatobench.tasks import RATIC

CROP = (8, 16, 16)


def engines_of(model: str, crop: tuple[int, int, int], *settings: str) -> dict[str, Engine]:
    recipe = override(parity_recipe("float64", 0), ["frozen_backbone=true", *settings])
    spec = ModelSpec(model, "tiny", RATIC, crop, plan_of(recipe, RATIC).heads)
    found = {framework: load_engine(framework, spec, recipe) for framework in FRAMEWORKS}
    weights = perturbed_weights(found["torch"].weights(), 0)
    for engine in found.values():
        engine.load_weights(weights)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "moved"),
    [("diagnosis", {"fc", "segmentation_head"}), ("partial_masks", {"partial_masks_head"})],
)
def test_the_backbone_stays_and_both_frameworks_train_the_same_heads(objective: str, moved: set[str]) -> None:
    engines = engines_of("r3d_18", CROP, f"objective={objective}")
    before = engines["torch"].weights()
    for step in range(2):
        batch = parity_batch(engines["torch"].spec, 3, 0, step)
        losses = [engines[framework].train_step(batch, 1e-2, step).fetch().loss for framework in FRAMEWORKS]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    after = {framework: engines[framework].weights() for framework in FRAMEWORKS}
    for found in after.values():
        changed = {name for name in found if not np.array_equal(found[name], before[name])}
        assert {name.partition(".")[0] for name in changed} == moved
    for name, array in after["torch"].items():
        np.testing.assert_allclose(array, after["jax"][name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_training_step_sees_the_features_of_evaluation(framework: str) -> None:
    engine = engines_of("r3d_18", CROP)[framework]
    batch = parity_batch(engine.spec, 3, 0, 0)
    trained, evaluated = (engine.inspect(batch, train=train, gradients=False) for train in (True, False))
    for name, activation in evaluated.activations.items():
        np.testing.assert_allclose(trained.activations[name], activation, rtol=1e-12, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_frozen_transformer_draws_no_stochastic_depth(framework: str) -> None:
    crop = RATIC.geometry("tiny").crop_size
    engine = engines_of("swin3d_t", crop, "dropout=true")[framework]
    batch = parity_batch(engine.spec, 2, 0, 0)
    trained, evaluated = (engine.inspect(batch, train=train, gradients=False) for train in (True, False))
    for name, activation in evaluated.activations.items():
        np.testing.assert_allclose(trained.activations[name], activation, rtol=1e-12, err_msg=name)
