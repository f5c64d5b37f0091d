"""The engine contract (anatobench/engine.py) in JAX: pure functions under `jax.jit` over the model's split state."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

from anatobench.engine import Arrays, Inspection, ModelSpec, StepMetrics
from anatobench.errors import UsageError
from anatobench.fast_forms import fast_forms
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE, Processes
from anatobench.tasks import Size
from jax_impl import parallel
from jax_impl.compilation import compiler_options, keep_compiled_programs
from jax_impl.forms import DEFAULT_FORMS, PLAIN
from jax_impl.instruments import JaxInstruments
from jax_impl.layers.noise import Key
from jax_impl.layers.upsampling import upsample_trilinear
from jax_impl.losses import CaseLosses, case_losses, segmentation_loss
from jax_impl.losses_by_parts import segmentation_loss_by_parts
from jax_impl.models import build_backbone
from jax_impl.models.diagnosis_model import DiagnosisModel
from jax_impl.optimizer import Tree, build_optimizer, clip_and_update
from jax_impl.precision import Precision
from jax_impl.preprocessing import normalise
from jax_impl.weights import (
    check_table,
    export_arrays,
    export_moments,
    import_arrays,
    import_moments,
    import_weights,
)


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    means: jax.Array
    """[6]: loss, classification, any_injury, segmentation, gradient norm, whether any process was asked to stop."""
    case_losses: jax.Array
    """[B], split by case"""

    def fetch(self) -> StepMetrics:
        """Wait for the device."""
        loss, classification, any_injury, segmentation, norm, stop = np.asarray(self.means).tolist()
        case_losses = parallel.own_part(self.case_losses)
        return StepMetrics(loss, classification, any_injury, segmentation, norm, case_losses, stop > 0)


class JaxEngine:
    """One model and its optimizer on one device, the GPU if there is one.

    The state is three trees of arrays (parameters, BatchNorm's running statistics, Adam's moments), which `train_step`
    donates to the compiled step and replaces by its results.
    """

    name = "jax"

    def __init__(self, spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> None:
        self.spec = spec
        self.recipe = recipe
        self.processes = processes
        self._mesh = parallel.join(processes)
        self._precision = Precision.named(recipe.precision)
        kind = self.device()["kind"]
        self.forms = fast_forms(recipe.fast, DEFAULT_FORMS[kind])
        keep_compiled_programs()
        model = _build_model(spec, recipe, self._precision, self.forms)
        self._table = model.weight_table()
        self._stage_names = model.stage_names()  # in order, which a dict loses on its way through `jax.jit`
        self._graph = nnx.graphdef(model)
        parameters, statistics = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
        self._optimizer = build_optimizer(recipe)
        with self._precision.applied():
            place = partial(parallel.place_whole, self._mesh, dtype=self._precision.parameter_dtype)
            self._parameters: Tree = jax.tree.map(place, nnx.to_pure_dict(parameters))
            self._statistics: Tree = jax.tree.map(place, nnx.to_pure_dict(statistics))
            whole = parallel.whole(self._mesh)
            self._optimizer_state = jax.jit(self._optimizer.init, out_shardings=whole)(self._parameters)
        check_table(self._table, self._parameters, self._statistics)
        compiled = partial(jax.jit, compiler_options=compiler_options(recipe, kind))
        self._train_step = compiled(
            self._pure_train_step,
            donate_argnums=(0, 1, 2),
            out_shardings=(whole, whole, parallel.by_case(self._mesh)),
        )
        self._predict = compiled(self._pure_predict)
        self._segment = compiled(self._pure_segment)
        self._hessian_product = compiled(self._pure_hessian_product)
        self._attribution = compiled(self._pure_attribution)
        self._inspect = compiled(self._pure_inspect, static_argnums=(0, 1))

    def train_step(self, batch: Batch, learning_rate: float, step: int, stop: bool = False) -> PendingStep:
        """See `anatobench.engine.Engine.train_step`."""
        with self._precision.applied():
            state = (self._parameters, self._statistics, self._optimizer_state)
            rate = np.asarray(learning_rate, self._precision.parameter_dtype)
            arrays = (batch.volume, batch.organs, batch.targets, np.array([stop]))
            placed = [parallel.place_by_case(self._mesh, array) for array in arrays]
            state, means, per_case = self._train_step(*state, *placed, rate, np.uint32(step))
            self._parameters, self._statistics, self._optimizer_state = state
        return PendingStep(means, per_case)

    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.predict`."""
        with self._precision.applied():
            return np.array(self._predict(*self._own_state(), volume))

    def segment(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.segment`; `UsageError` for a model without the head."""
        if not self.spec.segmentation:
            raise UsageError("this model was built without the segmentation head: build it with segmentation=True")
        with self._precision.applied():
            return np.array(self._segment(*self._own_state(), volume))

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.attribution`."""
        with self._precision.applied():
            return np.array(self._attribution(*self._own_state(), volume, slope))

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True) -> Inspection:
        """See `anatobench.engine.Engine.inspect`."""
        with self._precision.applied():
            losses, (outputs, logits, seg_logits), found = self._inspect(
                train, gradients, *self._own_state(), batch.volume, batch.organs, batch.targets
            )
            parameters = [entry for entry in self._table if not entry.buffer]
            return Inspection(
                activations={name: _channels_first(outputs[name]) for name in self._stage_names},
                logits=np.array(logits),
                seg_logits=np.zeros(0) if seg_logits is None else np.array(seg_logits),
                losses={name: float(value) for name, value in losses.items()},
                gradients=export_arrays(parameters, found) if gradients else {},
            )

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `anatobench.engine.Engine.parameter_shapes`."""
        return dict(sorted((entry.name, entry.shape) for entry in self._table if not entry.buffer))

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """See `anatobench.engine.Engine.hessian_product`."""
        parameters = [entry for entry in self._table if not entry.buffer]
        with self._precision.applied():
            along = import_arrays(parameters, direction, self._parameters, self._place, "the direction")
            product = self._hessian_product(
                *self._own_state(), parallel.own_copy(along), batch.volume, batch.organs, batch.targets
            )
            return export_arrays(parameters, product)

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
                self._table, weights, self._parameters, self._statistics, self._place
            )

    def optimizer_state(self) -> Arrays:
        """See `anatobench.engine.Engine.optimizer_state`."""
        adam, _ = self._optimizer_state
        return export_moments(self._table, adam.mu, adam.nu, int(adam.count))

    def load_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Engine.load_optimizer_state`."""
        with self._precision.applied():
            adam, decay = self._optimizer_state
            first, second, step = import_moments(self._table, state, self._parameters, self._place)
            count = self._place(np.asarray(step), adam.count.dtype)
            self._optimizer_state = (adam._replace(count=count, mu=first, nu=second), decay)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Engine.gather`."""
        return parallel.gather(array, self.processes)

    def close(self) -> None:
        """See `anatobench.engine.Engine.close`."""
        parallel.leave(self.processes)

    def _place(self, array: np.ndarray, dtype: DTypeLike) -> jax.Array:
        return parallel.place_whole(self._mesh, array, dtype)

    def _own_state(self) -> tuple[Tree, Tree]:
        return parallel.own_copy(self._parameters), parallel.own_copy(self._statistics)

    def device(self) -> dict[str, Any]:
        """See `anatobench.engine.Engine.device`."""
        device = self._mesh.local_devices[0]
        gpu = device.platform == "gpu"
        return {
            "kind": "gpu" if gpu else "cpu",
            "name": device.device_kind if gpu else platform.processor() or platform.machine(),
            "count": self.processes.count,
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "flax": flax.__version__,
                "optax": optax.__version__,
                "platform": device.client.platform_version,
            },
        }

    def instruments(self) -> JaxInstruments:
        """See `anatobench.engine.Engine.instruments`."""
        return JaxInstruments(self._mesh.local_devices[0], self._precision, lambda: self._parameters)

    # The compiled functions: state and arrays in, arrays out.

    def _pure_train_step(
        self,
        parameters: Tree,
        statistics: Tree,
        optimizer_state: optax.OptState,
        volume: jax.Array,
        organs: jax.Array,
        targets: jax.Array,
        stop: jax.Array,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> tuple[tuple[Tree, Tree, optax.OptState], jax.Array, jax.Array]:
        def objective(parameters: Tree) -> tuple[jax.Array, tuple[CaseLosses, Tree]]:
            model = self._model(parameters, statistics)
            key = self._key(step)
            features = self._features(model, volume, train=True, key=key)
            losses = self._losses(model, features, model.classify(features, key), targets, organs, self.forms)
            return losses.total.mean(), (losses, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        gradients, (losses, statistics) = jax.grad(objective, has_aux=True)(parameters)
        parameters, optimizer_state, norm = clip_and_update(
            self._optimizer, self.recipe.clip_norm, learning_rate, gradients, optimizer_state, parameters
        )
        means = jnp.stack([*_means(losses).values(), norm, stop.any()])
        return (parameters, statistics, optimizer_state), means, losses.total

    def _pure_predict(self, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = self._model(parameters, statistics)
        return model.classify(self._features(model, volume, train=False)).astype(jnp.float32)

    def _pure_segment(self, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = self._model(parameters, statistics)
        seg_logits = model.segment(self._features(model, volume, train=False), _size(volume))
        assert seg_logits is not None, "segment() refuses a model without the head"
        return jnp.argmax(seg_logits, 1).astype(jnp.uint8)

    def _pure_attribution(self, parameters: Tree, statistics: Tree, volume: jax.Array, slope: jax.Array) -> jax.Array:
        model = self._model(parameters, statistics)
        features = self._features(model, volume, train=False).astype(model.head_dtype)
        logits, pull_back = jax.vjp(model.classify, features)
        (gradient,) = pull_back(slope.astype(logits.dtype))
        weights = gradient.mean((1, 2, 3), keepdims=True)
        return jax.nn.relu((weights * features).sum(-1))

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
            logits = model.classify(features, key)
            losses = self._losses(model, features, logits, targets, organs, self.forms)
            return losses.total.mean(), (losses, (activations, logits, model.segment(features, _size(volume))))

        if gradients:
            found, (losses, outputs) = jax.grad(objective, has_aux=True)(parameters)
        else:
            found, (_, (losses, outputs)) = {}, objective(parameters)
        return _means(losses), outputs, found

    def _pure_hessian_product(
        self,
        parameters: Tree,
        statistics: Tree,
        direction: Tree,
        volume: jax.Array,
        organs: jax.Array,
        targets: jax.Array,
    ) -> Tree:
        def objective(parameters: Tree) -> jax.Array:
            model = nnx.merge(self._plain_graph, parameters, statistics)
            key = self._key(0)
            features = self._features(model, volume, train=True, key=key)
            logits = model.classify(features, key)
            return self._losses(model, features, logits, targets, organs, PLAIN).total.mean()

        # Backward over backward: the depthwise convolution has a backward rule of its own, but no forward one.
        return jax.grad(lambda at: optax.tree.vdot(jax.grad(objective)(at), direction))(parameters)

    def _key(self, step: jax.Array | int) -> Key | None:
        """For what a step draws at random, the same whenever it is taken; None where the recipe draws nothing."""
        return jax.random.fold_in(jax.random.key(self.recipe.seed), step) if self.recipe.dropout else None

    @cached_property
    def _plain_graph(self) -> nnx.GraphDef[DiagnosisModel]:
        """The same model in plain forms alone: the arrays of its state are the same."""
        return nnx.graphdef(_build_model(self.spec, self.recipe, self._precision, PLAIN))

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

    def _losses(
        self,
        model: DiagnosisModel,
        features: jax.Array,
        logits: jax.Array,
        targets: jax.Array,
        organs: jax.Array,
        forms: Collection[str],
    ) -> CaseLosses:
        """With the segmentation branch's, by the form that `forms` name."""
        coarse, segmentation = model.segment_coarse(features), None
        if coarse is not None and "segmentation" in forms:
            segmentation = segmentation_loss_by_parts(self.recipe, coarse, organs)
        elif coarse is not None:
            segmentation = segmentation_loss(self.recipe, upsample_trilinear(coarse, _size(organs)), organs)
        return case_losses(self.spec.task, self.recipe, logits, targets, segmentation)


def _size(volume: jax.Array) -> Size:
    """Of a scan [B, D, H, W]."""
    _, depth, height, width = volume.shape
    return depth, height, width


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


def _build_model(spec: ModelSpec, recipe: Recipe, precision: Precision, forms: Collection[str]) -> DiagnosisModel:
    """Weights drawn from the seed, in float32 whatever the precision, so that all precisions start from the same."""
    generator = np.random.default_rng(recipe.seed)
    classes = spec.task.segmentation_classes if spec.segmentation else None
    backbone = build_backbone(spec, precision.compute_dtype, forms, generator)
    return DiagnosisModel(
        backbone, classes, head_dtype=precision.parameter_dtype, generator=generator, recompute=recipe.recompute
    )


def build(spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> JaxEngine:
    """The entry point of `anatobench.engine.load_engine`."""
    return JaxEngine(spec, recipe, processes)
