"""An engine without a framework: logistic regression on eight pooled features with AdamW, in numpy.

It fulfils anatobench/engine.py bit for bit like a real one (canonical names, moments, noise seeded by the step), so the
loop, checkpoints, evaluation and commands are tested in milliseconds. A voxel of `POISON_HU` makes a case's loss NaN.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_peer import NumpyInstruments

from anatobench.engine import Arrays, Engine, Inspection, ModelSpec, StateSaver, StepMetrics
from anatobench.errors import AnatoBenchError
from anatobench.objectives.heads import SEGMENTATION
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE
from anatobench.tasks import MISSING_TARGET
from anatobench.training.checkpoints.saving import ArraysOnTheirWay

POISON_HU = -777
FEATURES = 8


@dataclass(frozen=True)
class Measured:
    """A step whose metrics are known at once; `fetched` notes when they were asked for."""

    metrics: StepMetrics
    fetched: list[int]
    step: int

    def fetch(self) -> StepMetrics:
        self.fetched.append(self.step)
        return self.metrics


@dataclass(frozen=True)
class NumpySaver:
    """As PyTorch's: `state` copies, and the files are written in another thread."""

    engine: "NumpyEngine"

    def begin(self, folder: Path) -> ArraysOnTheirWay:
        return ArraysOnTheirWay(folder, self.engine.state())

    def close(self) -> None:
        pass


class NumpyEngine:
    """Float32 throughout."""

    def __init__(self, spec: ModelSpec, recipe: Recipe, name: str = "torch") -> None:
        self.name, self.spec, self.recipe = name, spec, recipe
        self.processes = ALONE
        rng = np.random.default_rng(recipe.seed)
        shape = (spec.task.logit_count, FEATURES)
        self._weights: Arrays = {
            "fc.weight": rng.normal(0, 0.1, shape).astype(np.float32),
            "fc.bias": np.zeros(shape[0], np.float32),
        }
        if SEGMENTATION in spec.heads:
            self._weights["segmentation_head.weight"] = np.zeros(spec.task.segmentation_classes, np.float32)
        self._moments = {
            f"{moment}/{name}": np.zeros_like(array)
            for name, array in self._weights.items()
            for moment in ("exp_avg", "exp_avg_sq")
        }
        self._updates = 0
        self.events: list[int] = []
        """Steps in the order they were started (positive) and fetched (negative)."""

    def gather(self, array: np.ndarray) -> np.ndarray:
        return array[None].copy()

    def all_reduce_seconds(self, elements: int, repeats: int) -> list[float]:
        return []

    def close(self) -> None:
        pass

    def train_step(self, batch: Batch, learning_rate: float, step: int, stop: bool = False, phase: int = 0) -> Measured:
        self.events.append(step + 1)
        losses, gradients = self._losses_and_gradients(batch, self._noisy_features(batch, step))
        used = [gradients[name] for name in self._weights]
        norm = np.sqrt(sum(float((gradient**2).sum()) for gradient in used))
        self._update(gradients, norm, learning_rate)
        mean = float(losses.mean())
        fetched = _Negated(self.events)
        return Measured(StepMetrics(mean, _terms(mean), norm, losses), fetched, step + 1)

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True, phase: int = 0) -> Inspection:
        """With the features as the only stage; in training mode with the noise of step 0."""
        features = self._noisy_features(batch, 0) if train else _features(batch["volume"])
        losses, found = self._losses_and_gradients(batch, features)
        mean = float(losses.mean())
        return Inspection(
            {"features": features},
            {"logits": self._logits(features)},
            {"loss": mean, **_terms(mean)},
            {name: found[name] for name in self._weights} if gradients else {},
        )

    def _noisy_features(self, batch: Batch, step: int) -> np.ndarray:
        noise = np.random.default_rng((self.recipe.seed, step)).normal(0, 0.05, (batch.size, FEATURES))
        return (_features(batch["volume"]) + noise).astype(np.float32)

    def _losses_and_gradients(self, batch: Batch, features: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """[B], and of their mean by every parameter; the segmentation head's is a stand-in of 0.01."""
        losses, slopes = self._losses(self._logits(features), batch["targets"])
        losses[(batch["volume"] == POISON_HU).any(axis=(1, 2, 3))] = np.nan
        slopes[np.isnan(losses)] = np.nan
        return losses, {
            "fc.weight": slopes.T @ features / batch.size,
            "fc.bias": slopes.mean(axis=0),
            "segmentation_head.weight": np.full(self.spec.task.segmentation_classes, 0.01, np.float32),
        }

    def _update(self, gradients: Arrays, norm: float, learning_rate: float) -> None:
        recipe, scale = self.recipe, min(1.0, self.recipe.clip_norm / (norm + 1e-6))
        self._updates += 1
        for name, weight in self._weights.items():
            gradient = (gradients[name] * scale).astype(np.float32)
            first, second = self._moments[f"exp_avg/{name}"], self._moments[f"exp_avg_sq/{name}"]
            first += (1 - recipe.adam_beta1) * (gradient - first)
            second += (1 - recipe.adam_beta2) * (gradient**2 - second)
            root = np.sqrt(second / (1 - recipe.adam_beta2**self._updates)) + recipe.adam_epsilon
            weight *= np.float32(1 - learning_rate * recipe.weight_decay)
            weight -= (learning_rate / (1 - recipe.adam_beta1**self._updates) * first / root).astype(np.float32)

    def predict(self, volume: np.ndarray) -> np.ndarray:
        return self._logits(_features(volume))

    def segment(self, volume: np.ndarray, head: str = SEGMENTATION) -> np.ndarray:
        return (volume > 0).astype(np.uint8)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in sorted(self._weights.items())}

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """With a stand-in for the loss's Hessian: the identity times the number of the batch's first case."""
        return {name: (float(batch.case_index[0]) + 1) * array for name, array in direction.items()}

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Return each octant's share of the score."""
        shares = (slope @ self._weights["fc.weight"]) * _features(volume)
        octants: np.ndarray = np.maximum(shares, 0).reshape(-1, 2, 2, 2)
        return octants

    def weights(self) -> Arrays:
        return {name: array.copy() for name, array in self._weights.items()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        if missing := self._weights.keys() - weights.keys():
            raise AnatoBenchError(f"weights do not fit this model: {min(missing)} is missing")
        for name, array in self._weights.items():
            array[...] = weights[name]

    def state(self) -> dict[str, Arrays]:
        moments = {name: array.copy() for name, array in self._moments.items()}
        return {"model": self.weights(), "optimizer": {**moments, "step": np.array(self._updates)}}

    def saver(self) -> StateSaver:
        return NumpySaver(self)

    def load_state(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        if "model" in state:
            self.load_weights(state["model"])
        if "optimizer" in state:
            for name, array in self._moments.items():
                array[...] = state["optimizer"][name]
            self._updates = int(state["optimizer"]["step"])

    def instruments(self) -> NumpyInstruments:
        return NumpyInstruments()

    def device(self) -> dict[str, Any]:
        return {"kind": "cpu", "name": "test", "count": 1, "versions": {"numpy": np.__version__}}

    def _logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self._weights["fc.weight"].T + self._weights["fc.bias"]

    def _losses(self, logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy summed over groups, [B], and its slope by logit, [B, logits]."""
        losses, slopes = np.zeros(len(logits), np.float32), np.zeros_like(logits)
        for position, (group, columns) in enumerate(
            zip(self.spec.task.groups, self.spec.task.logit_slices, strict=True)
        ):
            z = logits[:, columns]
            z = np.concatenate([np.zeros_like(z), z], axis=1) if group.binary else z
            log_p = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
            grade = targets[:, position]
            known = (grade != MISSING_TARGET).astype(np.float32)
            losses -= known * log_p[np.arange(len(z)), np.maximum(grade, 0)]
            slope = known[:, None] * (np.exp(log_p) - (grade[:, None] == np.arange(z.shape[1])))
            slopes[:, columns] = slope[:, 1:] if group.binary else slope
        return losses, slopes


def _terms(loss: float) -> dict[str, float]:
    return {"classification": loss, "any_injury": 0.0, "segmentation": 0.0}


class _Negated(list[int]):
    """Notes a fetched step as its negative number in the engine's events."""

    def __init__(self, events: list[int]) -> None:
        super().__init__()
        self._events = events

    def append(self, step: int) -> None:
        self._events.append(-step)


def _features(volume: np.ndarray) -> np.ndarray:
    """Mean HU of the eight octants of int16 [B, D, H, W], scaled to about one: float32 [B, 8]."""
    halves = (
        [slice(None, None)]
        if volume.shape[1] < 2
        else [slice(0, volume.shape[1] // 2), slice(volume.shape[1] // 2, None)]
    )
    middle_h, middle_w = volume.shape[2] // 2, volume.shape[3] // 2
    means = [
        volume[:, d, h, w].mean(axis=(1, 2, 3), dtype=np.float32)
        for d in halves
        for h in (slice(0, middle_h), slice(middle_h, None))
        for w in (slice(0, middle_w), slice(middle_w, None))
    ]
    return np.stack(means, axis=1).astype(np.float32) / np.float32(500)


def build(name: str, spec: ModelSpec, recipe: Recipe) -> Engine:
    """Return what `load_engine` would: under the checker the double fulfils all of the contract."""
    return NumpyEngine(spec, recipe, name)


def use_numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every command and evaluation get this engine, whatever framework it asks for."""
    names = [f"anatobench.{name}" for name in ("engine", "evaluation.run_evaluation", "prediction.one_scan", "session")]
    for module in [importlib.import_module(name) for name in names]:  # all of them before the first has another engine
        monkeypatch.setattr(module, "load_engine", build)
