"""Arms of a step benchmark that need no framework: what `bench step --peer` is tested with, in a second."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.backbones import card_of
from anatobench.engine import TRACE, Arrays, DeviceMemory, ModelSpec, StepMetrics
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch

VARIANTS = (
    "plain",
    "slow",
    "prints",
    "dies",
    "starved",
    "changes_batch",
    "diverges",
    "hungry",
    "hangs",
    "caches",
    "hangs_at_two",
    "gpu",
)
BYTES_PER_CASE = 50_000_000
SLOW_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    loss: float

    def fetch(self) -> StepMetrics:
        return StepMetrics(self.loss, {}, 0.0, np.zeros(1))


class NumpyInstruments:
    def synchronise(self) -> None: ...

    def memory(self) -> DeviceMemory | None:
        return None

    def release_memory(self) -> None: ...

    def matrix_product_rate(self) -> float:
        return 1e9

    @contextmanager
    def trace(self, folder: Path, label: str, kind: str = TRACE) -> Iterator[None]:
        """Write the names of the ranges inside, a line each."""
        self.ranges: list[str] = []
        yield
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{label}.txt").write_text("\n".join(self.ranges))

    def profiles(self) -> tuple[str, ...]:
        return (TRACE,)

    @contextmanager
    def named_range(self, name: str) -> Iterator[None]:
        if hasattr(self, "ranges"):
            self.ranges.append(name)
        yield


class NumpyStep:
    """The loss is a weighted sum of the batch's bytes, so that it tells who saw other bytes or began elsewhere; it is
    noise where the model draws dropout."""

    def __init__(self, variant: str, spec: ModelSpec, recipe: Recipe) -> None:
        self.variant = variant
        self.recipe = replace(recipe, precision="bf16" if variant == "slow" else recipe.precision)
        self._dropout = recipe.dropout and card_of(spec.model).has_dropout
        self._weight = np.array([1.0 + VARIANTS.index(variant)], np.float32)

    def train_step(self, batch: Batch, learning_rate: float, step: int) -> Measured:
        if self.variant == "prints":
            print("a framework that talks")
        if self.variant == "dies" and step == 4:
            os.kill(os.getpid(), 9)
        if self.variant == "starved":
            raise MemoryError("no more")
        if self.variant == "caches":
            (Path(os.environ["ANATOBENCH_COMPILE_CACHE"]) / "program").touch()
        if self.variant == "hangs" or (self.variant == "hangs_at_two" and batch.size == 2):
            time.sleep(1000)
        if self.variant == "changes_batch":
            batch["volume"][:] = 0
        if self.variant == "hungry":
            np.ones(BYTES_PER_CASE * batch.size, np.uint8)
        if self.variant == "slow":
            time.sleep(SLOW_SECONDS)
        if self.variant == "diverges":
            return Measured(float("nan"))
        noise = 1e4 * float(np.random.default_rng().random()) if self._dropout else 0.0
        return Measured(noise + float(self._weight[0] * batch["volume"].astype(np.float64).mean()))

    def weights(self) -> Arrays:
        return {"weight": self._weight.copy()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weight = weights["weight"].copy()

    def device(self) -> dict[str, Any]:
        return {
            "kind": "gpu" if self.variant == "gpu" else "cpu",
            "name": "numpy",
            "count": 1,
            "versions": {"numpy": np.__version__},
        }

    def instruments(self) -> NumpyInstruments:
        return NumpyInstruments()


def build(variant: str, spec: ModelSpec, recipe: Recipe) -> NumpyStep:
    return NumpyStep(variant, spec, recipe)
