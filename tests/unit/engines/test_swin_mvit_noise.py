"""Dropout and stochastic depth: distribution, place, and the same draws for a step whenever it is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from shallow_transformers import make_transformers_shallow
from torch import nn
from torchvision.ops import StochasticDepth

from anatobench.engine import ModelSpec, load_engine
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC
from jax_impl.layers.noise import dropout, stochastic_depth
from jax_impl.models import build_backbone
from torch_ref.models import build_backbone as build_torch_backbone

ROWS = 20_000


def test_stochastic_depth_drops_whole_samples_at_the_rate_and_keeps_the_mean() -> None:
    x = jnp.ones((ROWS, 2, 3))
    kept = np.asarray(stochastic_depth(x, 0.2, jax.random.key(0)))
    assert (kept == kept[:, :1, :1]).all()
    assert set(np.unique(kept)) == {np.float32(0.0), np.float32(1.25)}
    assert abs((kept[:, 0, 0] == 0).mean() - 0.2) < 5 * (0.16 / ROWS) ** 0.5


def test_dropout_drops_every_element_by_itself() -> None:
    kept = np.asarray(dropout(jnp.ones((ROWS, 2)), 0.5, jax.random.key(0)))
    assert set(np.unique(kept)) == {np.float32(0.0), np.float32(2.0)}
    assert abs((kept == 0).mean() - 0.5) < 5 * (0.25 / kept.size) ** 0.5
    assert abs(np.corrcoef(kept.T)[0, 1]) < 5 / ROWS**0.5


def test_without_a_key_nothing_is_drawn() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(stochastic_depth(x, 0.9, None), x)
    np.testing.assert_array_equal(dropout(x, 0.9, None), x)


@pytest.mark.parametrize("size", ["tiny", "full"])
@pytest.mark.parametrize("model", ["swin3d_t", "mvit_v2_s"])
def test_rates_are_torchvisions(model: str, size: str) -> None:
    spec = ModelSpec(model, size, RATIC, RATIC.geometry(size).crop_size)
    modules = list(build_torch_backbone(spec).modules())  # type: ignore[attr-defined]
    theirs = [module.p for module in modules if isinstance(module, StochasticDepth)]
    backbone = build_backbone(spec, jnp.float32, (), np.random.default_rng(0))
    blocks = [stage.func for _, stage in backbone.stages(True, None) if hasattr(stage, "func")]
    ours = [block.drop_rate for block in blocks if hasattr(block, "drop_rate")]
    assert ours == pytest.approx(theirs)
    assert ours[0] == 0 < ours[-1]
    assert [module.p for module in modules if isinstance(module, nn.Dropout) and module.p] == (
        [0.5] if model == "mvit_v2_s" else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("model", ["swin3d_t", "mvit_v2_s"])
def test_a_step_draws_the_same_whenever_it_is_taken(
    framework: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(With `dropout=False` nothing is drawn, or no two frameworks would climb the parity ladder.)"""
    if model == "mvit_v2_s":  # in whose classifier something is dropped in any case
        make_transformers_shallow(monkeypatch)
    spec = ModelSpec(model, "tiny", RATIC, (8, 16, 16))
    engine = load_engine(framework, spec, Recipe(seed=2**32 - 1))
    initial, batch = engine.weights(), parity_batch(spec, 4, seed=0, step=0)

    def losses_of(step: int) -> bytes:
        engine.load_weights(initial)
        return engine.train_step(batch, 1e-4, step).fetch().case_losses.tobytes()

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = losses_of(7)
    # 0.9 ** 4: that no sample loses a branch in four steps is as good as impossible.
    assert len({losses_of(step) for step in (8, 9, 10, 11)} - {first}) == 4
    assert losses_of(7) == first
    assert torch.equal(torch.get_rng_state(), before), "the process's own generator was touched"
