"""What losses see of the model, what a step differentiates, and the step itself: one of each for training, inspection
and Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import jax
from flax import nnx

from anatobench.engine import ModelSpec
from anatobench.objectives.heads import HEADS
from anatobench.objectives.objective import Phase
from anatobench.recipes import Recipe
from anatobench.tasks import Size, Task
from jax_impl.layers.noise import Key
from jax_impl.models.diagnosis_model import DiagnosisModel
from jax_impl.optimizer import AdamW, Moments, Tree, merge, select
from jax_impl.precision import Precision
from jax_impl.preprocessing import normalise
from jax_impl.ranges import named_range

CaseTerms = Callable[[Task, Recipe, "View", Mapping[str, jax.Array]], dict[str, jax.Array]]
"""The terms of a kind of supervision, each [B], from what the model makes of a batch and the batch's arrays."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step changes: it is donated to the compiled step, which returns the next one."""

    parameters: Tree
    statistics: Tree
    """BatchNorm's running values."""
    optimizer: Moments
    teacher: tuple[Tree, Tree] | None
    """Its parameters and statistics."""


class View:
    """What the losses of a kind of supervision see of the model for one batch: each output is computed when it is asked
    for, once."""

    def __init__(
        self,
        model: DiagnosisModel,
        features: jax.Array,
        size: Size,
        forms: Collection[str],
        key: Key | None,
        teacher: Callable[[], View] | None = None,
    ) -> None:
        self._model, self._key = model, key
        self.features = features
        """The feature map F [B, d, h, w, C]."""
        self.size = size
        """Of the crop, (D, H, W)."""
        self.forms = forms
        """The fast forms (anatobench/fast_forms.py) that losses may take."""
        self._build_teacher = teacher

    @cached_property
    def teacher(self) -> View:
        """What the teacher makes of the same batch, in evaluation mode and without gradient."""
        assert self._build_teacher is not None, "a teacher's view has none"
        return self._build_teacher()

    @cached_property
    def logits(self) -> jax.Array:
        """[B, logits], the classifier's."""
        return self._model.classify(self.features, self._key)

    def coarse(self, head: str) -> jax.Array | None:
        """Return an auxiliary head's logits before upsampling, [B, classes, d, h, w]; None for a model without the
        head."""
        return self._model.coarse(head, self.features)

    def upsampled(self, head: str) -> jax.Array | None:
        """Return the same at the crop's size, [B, classes, D, H, W]."""
        return self._model.upsampled(head, self.features, self.size)


class Found(NamedTuple):
    """What an objective makes of a batch."""

    total: jax.Array
    """[B], the weighted sum of the terms."""
    terms: dict[str, jax.Array]
    """Each [B]."""
    statistics: Tree
    """BatchNorm's running values afterwards."""
    seen: dict[str, jax.Array]
    """The stages' outputs [B, D, H, W, C] (token models: [B, tokens, C]) and every head's logits under `Head.shown_as`,
    [B, logits] or [B, classes, D, H, W], where they were asked for."""


@dataclass(frozen=True)
class Objective:
    """From a batch as it travels to every term of a phase's loss per case."""

    graph: nnx.GraphDef[DiagnosisModel]
    phase: Phase
    case_terms: CaseTerms
    spec: ModelSpec
    recipe: Recipe
    precision: Precision
    forms: Collection[str]
    """Fast forms that losses take."""

    def __call__(
        self, state: TrainState, arrays: Mapping[str, jax.Array], train: bool, key: Key | None, lay_open: bool = False
    ) -> Found:
        """Turn the batch's arrays, each [B, ...], into every term [B]; `lay_open` keeps what lies between."""
        model = nnx.merge(self.graph, state.parameters, state.statistics)
        seen: dict[str, jax.Array] = {}
        moves, record = train and self.phase.trains_backbone, seen.__setitem__ if lay_open else None
        features = self.features(model, arrays["volume"], moves, key if moves else None, record)
        view = self._view(model, features, state.teacher, arrays["volume"], key)
        returned = self.case_terms(self.spec.task, self.recipe, view, arrays)
        terms = self.phase.objective.chosen(returned, cases=len(arrays["volume"]))
        if lay_open:
            for name in self.spec.heads:
                output = view.logits if HEADS[name].kind == "classifier" else view.upsampled(name)
                assert output is not None, "the model has the heads of its spec"
                seen[HEADS[name].shown_as] = output
        total = weighted_sum(self.phase.objective.terms, terms)
        return Found(total, terms, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), seen)

    def features(
        self,
        model: DiagnosisModel,
        volume: jax.Array,
        train: bool = False,
        key: Key | None = None,
        record: Callable[[str, jax.Array], None] | None = None,
    ) -> jax.Array:
        """int16 [B, D, H, W] HU to the feature map [B, d, h, w, C]."""
        x = normalise(volume, self.spec.task.window, self.precision.parameter_dtype)
        return model.features(x, train, key, record)

    def _view(
        self, model: DiagnosisModel, features: jax.Array, teacher: tuple[Tree, Tree] | None, volume: jax.Array,
        key: Key | None,
    ) -> View:  # fmt: skip
        size = size_of(volume)

        def of_teacher() -> View:
            if teacher is None:
                raise self.phase.objective.without_teacher()
            parameters, statistics = jax.lax.stop_gradient(teacher)
            model = nnx.merge(self.graph, parameters, statistics)
            return View(model, self.features(model, volume), size, self.forms, None)

        return View(model, features, size, self.forms, key, of_teacher)


def gradients(
    objective: Objective,
    optimizer: AdamW,
    state: TrainState,
    arrays: Mapping[str, jax.Array],
    train: bool,
    key: Key | None,
    lay_open: bool = False,
) -> tuple[Tree, Found]:
    """Differentiate the mean loss by what the phase trains; the gradients, and what the objective found. `arrays` as in
    `Batch`, each [B, ...]."""

    def loss(parameters: Tree) -> tuple[jax.Array, Found]:
        merged = replace(state, parameters=merge(parameters, state.parameters))
        with named_range("forward"):
            found = objective(merged, arrays, train, key, lay_open)
            return found.total.mean(), found

    trained = select(state.parameters, optimizer.trained_in(objective.phase))
    found: tuple[Tree, Found] = jax.grad(loss, has_aux=True)(trained)
    return found


def train_step(
    objective: Objective,
    optimizer: AdamW,
    state: TrainState,
    arrays: Mapping[str, jax.Array],
    learning_rate: jax.Array,
    key: Key | None,
) -> tuple[TrainState, dict[str, jax.Array], jax.Array]:
    """Forward, backward, clip, AdamW, teacher; the next state, the step's figures by name and the loss of each case
    [B]."""
    phase = objective.phase
    slopes, found = gradients(objective, optimizer, state, arrays, True, key)
    with named_range("optimizer"):
        parameters, moments, norm = optimizer.clip_and_update(
            phase, learning_rate, slopes, state.optimizer, state.parameters
        )
    teacher = state.teacher
    if phase.teacher is not None and teacher is not None:
        with named_range("teacher"):
            teacher = follow(teacher, (parameters, found.statistics), phase.teacher)
    state = TrainState(parameters, found.statistics, moments, teacher)
    return state, {**means(found), "gradient_norm": norm}, found.total


def weighted_sum(weights: Mapping[str, float], terms: Mapping[str, jax.Array]) -> jax.Array:
    """Add the terms, each [B], in the order of the weights; returns [B]."""
    first, *rest = [terms[name] if weight == 1.0 else weight * terms[name] for name, weight in weights.items()]
    for term in rest:
        first = first + term
    return first


def means(found: Found) -> dict[str, jax.Array]:
    """Over the batch: `loss` and every term, scalars."""
    return {"loss": found.total.mean(), **{name: term.mean() for name, term in found.terms.items()}}


def follow(teacher: Tree, model: Tree, momentum: float) -> Tree:
    """Return the teacher's arrays moved (1 - momentum) of the way to the model's."""
    return jax.tree.map(lambda ours, theirs: ours + (1.0 - momentum) * (theirs - ours), teacher, model)


def size_of(volume: jax.Array) -> Size:
    """(D, H, W) of [B, D, H, W]."""
    _, depth, height, width = volume.shape
    return depth, height, width
