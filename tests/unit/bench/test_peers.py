"""The stock torchvision peer does the suite's work: same losses, same gradients, at the same weights."""

import functools
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest

from anatobench.bench.random_batch import random_batch
from anatobench.engine import ModelSpec, load_engine
from anatobench.errors import UsageError
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

torch = pytest.importorskip("torch")
PATH = Path(__file__).parents[3] / "benchmarks" / "peers" / "step_torchvision.py"
STOCK_MODELS = ("r3d_18", "mvit_v2_s", "swin3d_t")
RECIPE = Recipe(batch_size=2, dropout=False, learning_rate=1e-3)


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    loaded = importlib.util.spec_from_file_location("peer_step_torchvision", PATH)
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    sys.modules[loaded.name] = module
    loaded.loader.exec_module(module)
    return module


def without_noise(step: Any) -> Any:
    """Return the suite's switch for dropout, thrown in the stock model."""
    from torch_ref.engine import switch_off_dropout

    switch_off_dropout(step._model)
    return step


@pytest.mark.slow
@pytest.mark.parametrize(("model", "segmentation"), [*((model, True) for model in STOCK_MODELS), ("r3d_18", False)])
def test_stock_step_computes_what_the_engine_does(peer: ModuleType, model: str, segmentation: bool) -> None:
    task = TASKS["ratic"]
    spec = ModelSpec(model, "tiny", task, task.geometry("tiny").crop_size, diagnosis_heads(segmentation))
    recipe = replace(RECIPE, segmentation_weight=float(segmentation))
    batch = random_batch(spec, 2, seed=0)
    engine = load_engine("torch", spec, recipe)
    stock = without_noise(peer.build("eager", spec, recipe))
    stock.load_weights(engine.weights())
    for step in range(2):  # the second loss is that after an update
        ours, theirs = engine.train_step(batch, 1e-3, step).fetch(), stock.train_step(batch, 1e-3, step).fetch()
        assert theirs.loss == pytest.approx(ours.loss, rel=2e-4)
        assert theirs.gradient_norm == pytest.approx(ours.gradient_norm, rel=5e-3)
    assert set(stock.weights()) == set(engine.weights())


@pytest.mark.parametrize("model", STOCK_MODELS)
def test_full_size_models_are_torchvisions_own_with_the_engines_names(peer: ModuleType, model: str) -> None:
    task = TASKS["ct_rate"]
    spec = ModelSpec(model, "full", task, task.geometry("full").crop_size)
    with torch.device("meta"):
        stock = peer.STOCK_MODELS[model](spec)
        from torch import nn

        from torch_ref.models import build_backbone

        ours = build_backbone(spec)
    assert type(stock.backbone).__module__.startswith("torchvision.")
    shapes = {name: tuple(tensor.shape) for name, tensor in cast(nn.Module, ours).state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in stock.backbone.state_dict().items()} == shapes


def test_a_backbone_without_a_stock_model_is_refused(peer: ModuleType) -> None:
    assert set(peer.STOCK_MODELS) == set(STOCK_MODELS)
    spec = ModelSpec("toy", "tiny", TASKS["ratic"], (16, 24, 24))
    with pytest.raises(UsageError, match="toy has no stock model to be compared with: leave the peer out, or add"):
        peer.build("eager", spec, RECIPE)


@pytest.mark.slow
def test_autocast_and_compiled_variants_find_the_same_loss(peer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that only captures graphs: code generation takes a CPU minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    spec = ModelSpec("r3d_18", "tiny", TASKS["ct_rate"], (16, 24, 24))
    batch = random_batch(spec, 1, seed=0)
    weights = peer.build("eager", spec, RECIPE).weights()
    losses = {}
    for variant in peer.VARIANTS:
        step = peer.build(variant, spec, RECIPE)
        step.load_weights(weights)
        losses[variant] = step.train_step(batch, 1e-3, 0).fetch().loss
        assert step.instruments().matrix_product_rate() > 0
    assert losses["compile"] == pytest.approx(losses["eager"], rel=1e-4)
    assert losses["autocast"] == pytest.approx(losses["eager"], rel=3e-2)
    assert losses["compile_autocast"] == pytest.approx(losses["eager"], rel=3e-2)
    assert losses["autocast"] != losses["eager"], "bfloat16 rounds"
    assert np.isfinite(list(losses.values())).all()
