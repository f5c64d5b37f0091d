"""Grad-CAM in both frameworks: the same map, and the one that the classifier's own weights give by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.parity.comparison import largest_difference
from anatobench.parity.inputs import parity_batch, perturbed_weights
from anatobench.prediction.attribution import log_odds_slope
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC

CLASSIFIERS = {"r3d_18": "fc.weight", "mvit_v2_s": "head.1.weight", "swin3d_t": "head.weight"}
CROP = (20, 24, 24)
RECIPE = Recipe(precision="fp64", seed=3)


def engines(model: str) -> list[Engine]:
    spec = ModelSpec(model, "tiny", RATIC, CROP)
    built = [load_engine(framework, spec, RECIPE) for framework in ("torch", "jax")]
    weights = perturbed_weights(built[0].weights(), seed=0)
    for engine in built:
        engine.load_weights(weights)
    return built


@pytest.mark.slow
@pytest.mark.parametrize("model", CLASSIFIERS)
def test_both_frameworks_find_the_same_evidence(model: str) -> None:
    torch, jax = engines(model)
    batch = parity_batch(torch.spec, 2, seed=0, step=0)
    seen = torch.inspect(batch, train=False, gradients=False)
    features = list(seen.activations.values())[-1]
    weight = torch.weights()[CLASSIFIERS[model]]
    for finding in ("liver_high", "any_injury"):
        slope = log_odds_slope(RATIC, seen.outputs["logits"], finding)
        signed = []
        for engine in (torch, jax):
            found, against = (engine.attribution(batch["volume"], sign * slope) for sign in (1.0, -1.0))
            assert found.shape == (2, *features.shape[2:])
            assert found.dtype == np.float64
            assert min(found.min(), against.min()) >= 0
            signed.append(found - against)
        assert largest_difference({"map": signed[0]}, {"map": signed[1]}).error < 1e-9
        # The classifier is linear in the averaged map, so a channel's weight is the same everywhere.
        by_hand = np.einsum("bl,lc,bcdhw->bdhw", slope, weight, features) / np.prod(features.shape[2:])
        np.testing.assert_allclose(signed[0], by_hand, rtol=1e-9, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_it_changes_nothing_and_is_float32_in_bfloat16(framework: str) -> None:
    engine = load_engine(framework, ModelSpec("r3d_18", "tiny", RATIC, CROP, heads=("classifier",)),
                         Recipe(precision="bf16", segmentation_weight=0.0))  # fmt: skip
    before = {name: array.tobytes() for name, array in engine.weights().items()}
    volume = parity_batch(engine.spec, 1, seed=0, step=0)["volume"]
    found = engine.attribution(volume, np.ones((1, RATIC.logit_count)))
    assert found.dtype == np.float32
    assert {name: array.tobytes() for name, array in engine.weights().items()} == before
