"""The engine contract (anatobench/engine.py) in JAX: pure functions under `jax.jit` over the model's split state."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from flax import nnx

from anatobench.engine import Arrays, Batch, Inspection, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.recipes import Recipe
from jax_impl.layers.noise import Key
from jax_impl.losses import CaseLosses, case_losses
from jax_impl.models import build_backbone
from jax_impl.models.diagnosis_model import DiagnosisModel
from jax_impl.optimizer import Tree, build_optimizer, clip_and_update
from jax_impl.precision import Precision
from jax_impl.preprocessing import normalise
from jax_impl.weights import (
    check_table,
    export_arrays,
    export_moments,
    import_moments,
    import_weights,
    place_on_device,
)


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    means: jax.Array
    """[5]: loss, classification, any_injury, segmentation, gradient norm."""
    case_losses: jax.Array
    """[B]"""

    def fetch(self) -> StepMetrics:
        """Wait for the device."""
        loss, classification, any_injury, segmentation, norm = np.asarray(self.means).tolist()
        return StepMetrics(loss, classification, any_injury, segmentation, norm, np.array(self.case_losses))


class JaxEngine:
    """One model and its optimizer on one device, the GPU if there is one.

    The state is three trees of arrays (parameters, BatchNorm's running statistics, Adam's moments), which `train_step`
    donates to the compiled step and replaces by its results.
    """

    name = "jax"

    def __init__(self, spec: ModelSpec, recipe: Recipe) -> None:
        self.spec = spec
        self.recipe = recipe
        self._precision = Precision.named(recipe.precision)
        model = _build_model(spec, self._precision, recipe.seed)
        self._table = model.weight_table()
        self._stage_names = model.stage_names()  # in order, which a dict loses on its way through `jax.jit`
        self._graph = nnx.graphdef(model)
        parameters, statistics = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
        self._optimizer = build_optimizer(recipe)
        with self._precision.applied():
            place = partial(place_on_device, dtype=self._precision.parameter_dtype)
            self._parameters: Tree = jax.tree.map(place, nnx.to_pure_dict(parameters))
            self._statistics: Tree = jax.tree.map(place, nnx.to_pure_dict(statistics))
            self._optimizer_state = jax.jit(self._optimizer.init)(self._parameters)
        check_table(self._table, self._parameters, self._statistics)
        self._train_step = jax.jit(self._pure_train_step, donate_argnums=(0, 1, 2))
        self._predict = jax.jit(self._pure_predict)
        self._segment = jax.jit(self._pure_segment)
        self._inspect = jax.jit(self._pure_inspect, static_argnums=(0, 1))

    def train_step(self, batch: Batch, learning_rate: float, step: int) -> PendingStep:
        """See `anatobench.engine.Engine.train_step`."""
        with self._precision.applied():
            state = (self._parameters, self._statistics, self._optimizer_state)
            rate = np.asarray(learning_rate, self._precision.parameter_dtype)
            state, means, per_case = self._train_step(*state, *_to_device(batch), rate, np.uint32(step))
            self._parameters, self._statistics, self._optimizer_state = state
        return PendingStep(means, per_case)

    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.predict`."""
        with self._precision.applied():
            return np.array(self._predict(self._parameters, self._statistics, volume))

    def segment(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.segment`; `UsageError` for a model without the head."""
        if not self.spec.segmentation:
            raise UsageError("this model was built without the segmentation head: build it with segmentation=True")
        with self._precision.applied():
            return np.array(self._segment(self._parameters, self._statistics, volume))

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True) -> Inspection:
        """See `anatobench.engine.Engine.inspect`."""
        with self._precision.applied():
            losses, (outputs, logits, seg_logits), found = self._inspect(
                train, gradients, self._parameters, self._statistics, *_to_device(batch)
            )
            parameters = [entry for entry in self._table if not entry.buffer]
            return Inspection(
                activations={name: _channels_first(outputs[name]) for name in self._stage_names},
                logits=np.array(logits),
                seg_logits=np.zeros(0) if seg_logits is None else np.array(seg_logits),
                losses={name: float(value) for name, value in losses.items()},
                gradients=export_arrays(parameters, found) if gradients else {},
            )

    def weights(self) -> Arrays:
        """See `anatobench.engine.Engine.weights`."""
        parameters = export_arrays([e for e in self._table if not e.buffer], self._parameters)
        statistics = export_arrays([e for e in self._table if e.buffer], self._statistics)
        arrays = parameters | statistics
        return {entry.name: arrays[entry.name] for entry in self._table}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Engine.load_weights`."""
        with self._precision.applied():
            self._parameters, self._statistics = import_weights(
                self._table, weights, self._parameters, self._statistics
            )

    def optimizer_state(self) -> Arrays:
        """See `anatobench.engine.Engine.optimizer_state`."""
        adam, _ = self._optimizer_state
        return export_moments(self._table, adam.mu, adam.nu, int(adam.count))

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Engine.load_optimizer_state`."""
        with self._precision.applied():
            adam, decay = self._optimizer_state
            first, second, step = import_moments(self._table, state, self._parameters)
            count = place_on_device(np.asarray(step), adam.count.dtype)
            self._optimizer_state = (adam._replace(count=count, mu=first, nu=second), decay)

    def device(self) -> dict[str, Any]:
        """See `anatobench.engine.Engine.device`."""
        device = jax.devices()[0]
        gpu = device.platform == "gpu"
        return {
            "kind": "gpu" if gpu else "cpu",
            "name": device.device_kind if gpu else platform.processor() or platform.machine(),
            "count": 1,
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "flax": flax.__version__,
                "optax": optax.__version__,
                "platform": device.client.platform_version,
            },
        }

    # The compiled functions: state and arrays in, arrays out.

    def _pure_train_step(
        self,
        parameters: Tree,
        statistics: Tree,
        optimizer_state: optax.OptState,
        volume: jax.Array,
        organs: jax.Array,
        targets: jax.Array,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> tuple[tuple[Tree, Tree, optax.OptState], jax.Array, jax.Array]:
        def objective(parameters: Tree) -> tuple[jax.Array, tuple[CaseLosses, Tree]]:
            model = self._model(parameters, statistics)
            key = self._key(step)
            features = self._features(model, volume, train=True, key=key)
            logits, seg_logits = model.classify(features, key), self._seg_logits(model, features, volume)
            losses = self._losses(logits, seg_logits, targets, organs)
            return losses.total.mean(), (losses, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        gradients, (losses, statistics) = jax.grad(objective, has_aux=True)(parameters)
        parameters, optimizer_state, norm = clip_and_update(
            self._optimizer, self.recipe.clip_norm, learning_rate, gradients, optimizer_state, parameters
        )
        means = jnp.stack([*_means(losses).values(), norm])
        return (parameters, statistics, optimizer_state), means, losses.total

    def _pure_predict(self, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = self._model(parameters, statistics)
        return model.classify(self._features(model, volume, train=False)).astype(jnp.float32)

    def _pure_segment(self, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = self._model(parameters, statistics)
        seg_logits = self._seg_logits(model, self._features(model, volume, train=False), volume)
        assert seg_logits is not None, "segment() refuses a model without the head"
        return jnp.argmax(seg_logits, 1).astype(jnp.uint8)

    def _pure_inspect(
        self,
        train: bool,
        gradients: bool,
        parameters: Tree,
        statistics: Tree,
        volume: jax.Array,
        organs: jax.Array,
        targets: jax.Array,
    ) -> tuple[dict[str, jax.Array], tuple[dict[str, jax.Array], jax.Array, jax.Array | None], Tree]:
        def objective(parameters: Tree) -> tuple[jax.Array, tuple[CaseLosses, Tree]]:
            activations: dict[str, jax.Array] = {}
            model = self._model(parameters, statistics)
            key = self._key(0) if train else None
            features = self._features(model, volume, train, key, activations.__setitem__)
            logits, seg_logits = model.classify(features, key), self._seg_logits(model, features, volume)
            losses = self._losses(logits, seg_logits, targets, organs)
            return losses.total.mean(), (losses, (activations, logits, seg_logits))

        if gradients:
            found, (losses, outputs) = jax.grad(objective, has_aux=True)(parameters)
        else:
            found, (_, (losses, outputs)) = {}, objective(parameters)
        return _means(losses), outputs, found

    def _key(self, step: jax.Array | int) -> Key | None:
        """For what a step draws at random, the same whenever it is taken; None where the recipe draws nothing."""
        return jax.random.fold_in(jax.random.key(self.recipe.seed), step) if self.recipe.dropout else None

    def _model(self, parameters: Tree, statistics: Tree) -> DiagnosisModel:
        return nnx.merge(self._graph, parameters, statistics)

    def _features(
        self,
        model: DiagnosisModel,
        volume: jax.Array,
        train: bool,
        key: Key | None = None,
        record: Callable[[str, jax.Array], None] | None = None,
    ) -> jax.Array:
        """int16 [B, D, H, W] to the feature map; `record` is shown every stage's output."""
        x = normalise(volume, self.spec.task.window, self._precision.parameter_dtype)
        return model.features(x, train, key, record)

    def _seg_logits(self, model: DiagnosisModel, features: jax.Array, volume: jax.Array) -> jax.Array | None:
        depth, height, width = volume.shape[1:]
        return model.segment(features, (depth, height, width))

    def _losses(
        self, logits: jax.Array, seg_logits: jax.Array | None, targets: jax.Array, organs: jax.Array
    ) -> CaseLosses:
        return case_losses(self.spec.task, self.recipe, logits, seg_logits, targets, organs)


def _to_device(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """volume, organs, targets, copied: on a CPU JAX would otherwise work on the caller's memory, after returning."""
    arrays = (batch.volume, batch.organs, batch.targets)
    return jax.device_put(arrays, may_alias=False)


def _channels_first(output: jax.Array) -> np.ndarray:
    """Maps to torch's layout; tokens [B, N, C] are the same in both."""
    array = np.asarray(output)
    if array.ndim == 5:
        array = np.moveaxis(array, -1, 1)
    return np.array(array if array.dtype == np.float64 else array.astype(np.float32), order="C")


def _means(losses: CaseLosses) -> dict[str, jax.Array]:
    return {
        "loss": losses.total.mean(),
        "classification": losses.classification.mean(),
        "any_injury": losses.any_injury.mean(),
        "segmentation": losses.segmentation.mean(),
    }


def _build_model(spec: ModelSpec, precision: Precision, seed: int) -> DiagnosisModel:
    """Weights drawn from `seed`, in float32 whatever the precision, so that all precisions start from the same."""
    generator = np.random.default_rng(seed)
    classes = spec.task.segmentation_classes if spec.segmentation else None
    backbone = build_backbone(spec, precision.compute_dtype, generator)
    return DiagnosisModel(backbone, classes, head_dtype=precision.parameter_dtype, generator=generator)


def build(spec: ModelSpec, recipe: Recipe) -> JaxEngine:
    """The entry point of `anatobench.engine.load_engine`."""
    return JaxEngine(spec, recipe)
