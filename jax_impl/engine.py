"""The engine contract (anatobench/engine.py) in JAX: pure functions under `jax.jit` over the model's split state."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
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

from anatobench.engine import Arrays, Inspection, ModelSpec, StateSaver, StepMetrics
from anatobench.errors import UsageError
from anatobench.fast_forms import fast_forms
from anatobench.objectives.heads import HEADS, SEGMENTATION, auxiliary_heads
from anatobench.objectives.registry import plan_of
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.system.processes import ALONE, Processes
from jax_impl import parallel
from jax_impl.compilation import compiler_options, keep_compiled_programs
from jax_impl.forms import DEFAULT_FORMS, PLAIN
from jax_impl.instruments import JaxInstruments
from jax_impl.layers.noise import Key
from jax_impl.losses import CASE_TERMS
from jax_impl.models import build_backbone
from jax_impl.models.diagnosis_model import DiagnosisModel
from jax_impl.optimizer import AdamW, Moments, Tree
from jax_impl.precision import Precision
from jax_impl.step import Objective, TrainState, gradients, means, size_of, train_step
from jax_impl.weights import (
    check_table,
    export_arrays,
    export_moments,
    import_arrays,
    import_moments,
    import_weights,
    names_of,
)


@dataclass(frozen=True)
class PendingStep:
    """The figures of a step, still on the device."""

    names: tuple[str, ...]
    figures: jax.Array
    """[names]"""
    case_losses: jax.Array
    """[B], split by case"""

    def fetch(self) -> StepMetrics:
        """Wait for the device."""
        figures = dict(zip(self.names, np.asarray(self.figures).tolist(), strict=True))
        return StepMetrics.of(figures, parallel.own_part(self.case_losses))


class JaxEngine:
    """One model and its optimizer on one device, the GPU if there is one.

    The state is trees of arrays, which `train_step` donates to the compiled step and replaces by its results.
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
        parameters, statistics = (nnx.to_pure_dict(nnx.state(model, part)) for part in (nnx.Param, nnx.BatchStat))
        check_table(self._table, parameters, statistics)
        names = [entry.name for entry in self._table if not entry.buffer]
        plan = plan_of(recipe, spec.task).of_model(spec.model, names)
        self._phases = plan.phases
        self._optimizer = AdamW(recipe, plan.phases, names_of(self._table, parameters))
        with self._precision.applied():
            self._state = self._first_state(parameters, statistics, plan.has_teacher)
        compiled = partial(jax.jit, compiler_options=compiler_options(recipe, kind))
        whole = parallel.whole(self._mesh)
        self._train_step = compiled(
            self._pure_train_step,
            static_argnums=0,
            donate_argnums=1,
            out_shardings=(whole, whole, parallel.by_case(self._mesh)),
        )
        self._predict = compiled(self._pure_predict)
        self._segment = compiled(self._pure_segment, static_argnums=0)
        self._hessian_product = compiled(self._pure_hessian_product)
        self._attribution = compiled(self._pure_attribution)
        self._inspect = compiled(self._pure_inspect, static_argnums=(0, 1, 2))

    def _first_state(self, parameters: Tree, statistics: Tree, has_teacher: bool) -> TrainState:
        place = partial(parallel.place_whole, self._mesh, dtype=self._precision.parameter_dtype)
        placed, running = jax.tree.map(place, parameters), jax.tree.map(place, statistics)
        moments = jax.jit(self._optimizer.init, out_shardings=parallel.whole(self._mesh))(placed)
        teacher = jax.tree.map(place, (parameters, statistics)) if has_teacher else None
        return TrainState(placed, running, moments, teacher)

    def train_step(
        self, batch: Batch, learning_rate: float, step: int, stop: bool = False, phase: int = 0
    ) -> PendingStep:
        """See `anatobench.engine.Trainable.train_step`."""
        with self._precision.applied():
            rate = np.asarray(learning_rate, self._precision.parameter_dtype)
            arrays = {
                name: parallel.place_by_case(self._mesh, array) for name, array in self._read(batch, phase).items()
            }
            asked = parallel.place_by_case(self._mesh, np.array([stop], rate.dtype))
            self._state, figures, case_losses = self._train_step(
                phase, self._state, arrays, asked, rate, np.uint32(step)
            )
        return PendingStep((*self._figures(phase), "stop"), figures, case_losses)

    def predict(self, volume: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Predictor.predict`."""
        with self._precision.applied():
            return np.array(self._predict(*self._own_model(), volume))

    def segment(self, volume: np.ndarray, head: str = SEGMENTATION) -> np.ndarray:
        """See `anatobench.engine.Predictor.segment`; `UsageError` for a model without the head."""
        if head not in self.spec.heads:
            raise UsageError(f"this model was built without the head {head!r}: it has {self.spec.heads}")
        with self._precision.applied():
            return np.array(self._segment(head, *self._own_model(), volume))

    def attribution(self, volume: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Probe.attribution`."""
        with self._precision.applied():
            return np.array(self._attribution(*self._own_model(), volume, slope))

    def inspect(self, batch: Batch, train: bool = True, gradients: bool = True, phase: int = 0) -> Inspection:
        """See `anatobench.engine.Probe.inspect`."""
        with self._precision.applied():
            losses, seen, found = self._inspect(phase, train, gradients, self._own_state(), self._read(batch, phase))
            trained = [e for e in self._table if not e.buffer and self._phases[phase].trains(e.name)]
            return Inspection(
                activations={name: _channels_first(seen[name]) for name in self._stage_names},
                outputs={name: np.array(seen[name]) for name in [HEADS[head].shown_as for head in self.spec.heads]},
                losses={name: float(losses[name]) for name in self._figures(phase) if name in losses},
                gradients=export_arrays(trained, found) if gradients else {},
            )

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """See `anatobench.engine.Trainable.parameter_shapes`."""
        return dict(sorted((entry.name, entry.shape) for entry in self._table if not entry.buffer))

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """See `anatobench.engine.Probe.hessian_product`."""
        parameters = [entry for entry in self._table if not entry.buffer]
        with self._precision.applied():
            along = import_arrays(parameters, direction, self._state.parameters, self._place, "the direction")
            product = self._hessian_product(self._own_state(), parallel.own_copy(along), self._read(batch, 0))
            return export_arrays(parameters, product)

    def state(self) -> dict[str, Arrays]:
        """See `anatobench.engine.Trainable.state`."""
        trees = {"model": self.weights(), "optimizer": export_moments(self._table, self._state.optimizer, self._group)}
        if self._state.teacher is not None:
            trees["teacher"] = self._exported(*self._state.teacher)
        return trees

    def saver(self) -> StateSaver:
        """See `anatobench.engine.Trainable.saver`."""
        from jax_impl.saver import JaxSaver  # Orbax takes a second to import, which only training needs

        return JaxSaver(lambda: self._state, self._table, self._group, self._mesh, self._precision, self.processes)

    def load_state(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """See `anatobench.engine.Trainable.load_state`."""
        now, place = self._state, self._place
        with self._precision.applied():
            if "model" in state:
                parameters, statistics = import_weights(
                    self._table, state["model"], now.parameters, now.statistics, place
                )
                now = replace(now, parameters=parameters, statistics=statistics)
            if "optimizer" in state:
                moments = import_moments(self._table, state["optimizer"], now.optimizer, self._group, place)
                now = replace(now, optimizer=moments)
            if "teacher" in state and now.teacher is not None:
                now = replace(now, teacher=import_weights(self._table, state["teacher"], *now.teacher, place))
        self._state = now

    def weights(self) -> Arrays:
        """See `anatobench.engine.Trainable.weights`."""
        return self._exported(self._state.parameters, self._state.statistics)

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See `anatobench.engine.Trainable.load_weights`."""
        self.load_state({"model": weights, "teacher": weights})

    def gather(self, array: np.ndarray) -> np.ndarray:
        """See `anatobench.engine.Collective.gather`."""
        return parallel.gather(array, self.processes)

    def all_reduce_seconds(self, elements: int, repeats: int) -> list[float]:
        """See `anatobench.engine.Collective.all_reduce_seconds`."""
        return parallel.all_reduce_seconds(elements, repeats, self._mesh, self.processes)

    def close(self) -> None:
        """See `anatobench.engine.Collective.close`."""
        parallel.leave(self.processes)

    def _place(self, array: np.ndarray, dtype: DTypeLike) -> jax.Array:
        return parallel.place_whole(self._mesh, array, dtype)

    def _exported(self, parameters: Tree, statistics: Tree) -> Arrays:
        arrays = export_arrays([e for e in self._table if not e.buffer], parameters)
        arrays |= export_arrays([e for e in self._table if e.buffer], statistics)
        return {entry.name: arrays[entry.name] for entry in self._table}

    def _group(self, name: str) -> str:
        return self._optimizer.group_of(name)

    def _read(self, batch: Batch, phase: int) -> dict[str, np.ndarray]:
        """Return what the phase's objective reads."""
        return {name: batch[name] for name in self._phases[phase].objective.reads}

    def _figures(self, phase: int) -> tuple[str, ...]:
        """Return what a step measures, in order: a dict forgets its own on its way through JAX."""
        return ("loss", *self._phases[phase].objective.terms, "gradient_norm")

    def _own_model(self) -> tuple[Tree, Tree]:
        return parallel.own_copy(self._state.parameters), parallel.own_copy(self._state.statistics)

    def _own_state(self) -> TrainState:
        """Without Adam's moments."""
        parameters, statistics = self._own_model()
        nothing = Moments({}, {}, {})
        return TrainState(parameters, statistics, nothing, parallel.own_copy(self._state.teacher))

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
        return JaxInstruments(self._mesh.local_devices[0], self._precision, lambda: self._state.parameters)

    # The compiled functions: state and arrays in, arrays out.

    def _pure_train_step(
        self,
        phase: int,
        state: TrainState,
        arrays: dict[str, jax.Array],
        stop: jax.Array,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> tuple[TrainState, jax.Array, jax.Array]:
        objective = self._objective(phase)
        state, figures, case_losses = train_step(
            objective, self._optimizer, state, arrays, learning_rate, self._key(step)
        )
        return state, jnp.stack([*(figures[name] for name in self._figures(phase)), stop.sum()]), case_losses

    def _pure_predict(self, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, parameters, statistics)
        logits: jax.Array = model.classify(self._objective(0).features(model, volume))
        return logits.astype(jnp.float32)

    def _pure_segment(self, head: str, parameters: Tree, statistics: Tree, volume: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, parameters, statistics)
        seg_logits = model.upsampled(head, self._objective(0).features(model, volume), size_of(volume))
        assert seg_logits is not None, "segment() refuses a model without the head"
        return (seg_logits > 0 if HEADS[head].overlapping else jnp.argmax(seg_logits, 1)).astype(jnp.uint8)

    def _pure_attribution(self, parameters: Tree, statistics: Tree, volume: jax.Array, slope: jax.Array) -> jax.Array:
        model = nnx.merge(self._graph, parameters, statistics)
        features = self._objective(0).features(model, volume).astype(model.head_dtype)
        logits, pull_back = jax.vjp(model.classify, features)
        (gradient,) = pull_back(slope.astype(logits.dtype))
        weights = gradient.mean((1, 2, 3), keepdims=True)
        return jax.nn.relu((weights * features).sum(-1))

    def _pure_inspect(
        self, phase: int, train: bool, with_gradients: bool, state: TrainState, arrays: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], Tree]:
        objective, key = self._objective(phase), self._key(0) if train else None
        if with_gradients:
            slopes, found = gradients(objective, self._optimizer, state, arrays, train, key, lay_open=True)
        else:
            slopes, found = {}, objective(state, arrays, train, key, lay_open=True)
        return means(found), found.seen, slopes

    def _pure_hessian_product(self, state: TrainState, direction: Tree, arrays: dict[str, jax.Array]) -> Tree:
        objective = replace(self._objective(0), graph=self._plain_graph, forms=PLAIN)

        def loss(parameters: Tree) -> jax.Array:
            return objective(replace(state, parameters=parameters), arrays, True, self._key(0)).total.mean()

        # Backward over backward: the depthwise convolution has a backward rule of its own, but no forward one.
        return jax.grad(lambda at: optax.tree.vdot(jax.grad(loss)(at), direction))(state.parameters)

    def _objective(self, phase: int) -> Objective:
        found = self._phases[phase]
        terms = CASE_TERMS[found.objective.kind]
        return Objective(self._graph, found, terms, self.spec, self.recipe, self._precision, self.forms)

    def _key(self, step: jax.Array | int) -> Key | None:
        """For what a step draws at random, the same whenever it is taken; None where the recipe draws nothing."""
        return jax.random.fold_in(jax.random.key(self.recipe.seed), step) if self.recipe.dropout else None

    @cached_property
    def _plain_graph(self) -> nnx.GraphDef[DiagnosisModel]:
        """The same model in plain forms alone: the arrays of its state are the same."""
        return nnx.graphdef(_build_model(self.spec, self.recipe, self._precision, PLAIN))


def _channels_first(output: jax.Array) -> np.ndarray:
    """Turn maps to torch's layout; tokens [B, N, C] are the same in both."""
    array = np.asarray(output)
    if array.ndim == 5:
        array = np.moveaxis(array, -1, 1)
    return np.array(array if array.dtype == np.float64 else array.astype(np.float32), order="C")


def _build_model(spec: ModelSpec, recipe: Recipe, precision: Precision, forms: Collection[str]) -> DiagnosisModel:
    """Weights drawn from the seed, in float32 whatever the precision, so that all precisions start from the same."""
    generator = np.random.default_rng(recipe.seed)
    auxiliary = {name: HEADS[name].outputs(spec.task) for name in auxiliary_heads(spec.heads)}
    backbone = build_backbone(spec, precision.compute_dtype, forms, generator)
    return DiagnosisModel(
        backbone, auxiliary, head_dtype=precision.parameter_dtype, generator=generator, recompute=recipe.recompute
    )


def build(spec: ModelSpec, recipe: Recipe, processes: Processes = ALONE) -> JaxEngine:
    """Return the entry point of `anatobench.engine.load_engine`."""
    return JaxEngine(spec, recipe, processes)
