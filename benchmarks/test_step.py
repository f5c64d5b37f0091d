"""Training steps of a size for CPUs, driven by pytest-benchmark: `pytest benchmarks`.

For a developer who changes a layer and wants to see what that does to a step; for a ratio between frameworks use
`anatobench bench step`, whose arms take turns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anatobench.bench.random_batch import random_batch
from anatobench.engine import ModelSpec, load_engine
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import FRAMEWORKS, MODELS, paper_recipe
from anatobench.tasks import TASKS

pytest.importorskip("pytest_benchmark", reason="pip install -e '.[benchmarks]'")
BATCH_SIZE = 1
PACKAGES = {"torch": "torch", "jax": "flax"}


@pytest.mark.parametrize("segmentation", [True, False], ids=["head", "no_head"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_step(benchmark: Any, framework: str, model: str, segmentation: bool) -> None:
    pytest.importorskip(PACKAGES[framework])
    task = TASKS["ratic"]
    spec = ModelSpec(model, "tiny", task, task.geometry("tiny").crop_size, diagnosis_heads(segmentation))
    recipe = dataclasses.replace(paper_recipe(task, model), segmentation_weight=float(segmentation))
    engine = load_engine(framework, spec, recipe)
    batch = random_batch(spec, BATCH_SIZE, seed=0)
    instruments = engine.instruments()

    def step() -> None:
        engine.train_step(batch, recipe.learning_rate, 0).fetch()
        instruments.synchronise()

    step()  # compiles
    benchmark.group = f"step {model}{'' if segmentation else ', no head'}"
    benchmark(step)
