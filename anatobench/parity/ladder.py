"""The ladder: shapes, weights, each stage, logits, losses, gradients, one optimizer step, N steps.

Both engines start from the same weights and see the same batches. A rung compares one kind of result and is listed
under what `--json` calls it, so that the first red rung says where two programs part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from anatobench.engine import Arrays, Engine, Inspection, StepMetrics
from anatobench.objectives.objective import Plan
from anatobench.objectives.registry import plan_of
from anatobench.parity.comparison import Difference, difference_of_norms, exact_difference, largest_difference
from anatobench.parity.inputs import learning_rate, parity_batch, perturbed_weights

BUFFERS = ("running_mean", "running_var")
KINDS = {
    "shapes": "names and shapes of every parameter, stage and moment",
    "weights": "weights converted to the other framework and back",
    "activations": "the output of every stage of the backbone",
    "logits": "the classifier's scores in one forward pass",
    "seg_logits": "the segmentation head's scores in one forward pass",
    "loss": "every term of the loss, per case and as a mean",
    "grads": "the gradient of every parameter, array by array",
    "whole_gradient": "all gradients as one vector",
    "gradient_norm": "the norm that clipping looks at",
    "optimizer": "AdamW's moments and step count",
    "params": "parameters after the optimizer steps",
    "batch_stats": "BatchNorm's running statistics after those steps",
    "prediction": "scores in evaluation mode after those steps; returned in float32, so 1e-6 passes",
}
"""What each kind of rung compares, for a reader; heads of an objective have kinds of their own names."""


@dataclass(frozen=True)
class Rung:
    """One comparison."""

    name: str
    kind: str
    """The key of `max_rel_error` it counts under."""
    difference: Difference
    tolerance: float | None
    """None: measured and reported, not a gate."""

    @property
    def passed(self) -> bool:
        return self.tolerance is None or self.difference.error <= self.tolerance


@dataclass(frozen=True)
class Tolerances:
    """The largest relative error allowed; None measures without a gate."""

    forward: float | None
    """Activations, logits and losses."""
    gradients: float | None
    """Of the first pass, in every array."""
    whole_gradient: float | None
    """Of the first pass, in the norm of the gradient as one vector."""
    training: float | None
    """Everything after an optimizer step."""


@dataclass(frozen=True)
class Ladder:
    """Two engines of the same spec and recipe, and what they are put through.

    The reference is the first one. They may have been trained before: everything is reset.
    """

    reference: Engine
    candidate: Engine
    steps: int
    """Optimizer steps; 0 compares one pass alone."""
    backward: bool
    """With `steps` 0, whether that pass is one in training mode with gradients, or one in evaluation mode."""
    batch_size: int
    seed: int
    tolerances: Tolerances

    @property
    def _plan(self) -> Plan:
        return plan_of(self.reference.recipe, self.reference.spec.task)

    def climb(self, progress: Callable[[str], None] = lambda what: None) -> Iterator[Rung]:
        """Yield every rung in order, whether or not one below has failed; `progress` is told what comes next."""
        progress("weights")
        weights = perturbed_weights(self.reference.weights(), self.seed)
        yield from self._weight_rungs(weights)
        if self.steps or self.backward:
            progress("forward and backward, training mode")
            for phase in range(len(self._plan.phases)):
                prefix = f"phase {phase + 1}: " if phase else ""
                yield from self._inspection_rungs(prefix, train=True, gradients=True, phase=phase)
        if self.steps or not self.backward:
            progress("forward, evaluation mode")
            yield from self._inspection_rungs("evaluation ", train=False, gradients=False)
        if self.steps:
            yield from self._training_rungs(progress)

    def _weight_rungs(self, weights: Arrays) -> Iterator[Rung]:
        """Compare names and shapes; reference to candidate and back is the identity, to the bit."""
        shapes = ({n: np.asarray(a.shape) for n, a in e.weights().items()} for e in (self.reference, self.candidate))
        yield self._forward("shapes", "shapes", exact_difference(*shapes))
        self.reference.load_weights(weights)
        self.candidate.load_weights(self.reference.weights())
        yield self._forward("weights there and back", "weights", exact_difference(weights, self.candidate.weights()))
        zeros = {name: np.zeros_like(array) for name, array in self.reference.state()["optimizer"].items()}
        for engine in (self.reference, self.candidate):
            engine.load_state({"optimizer": zeros})

    def _inspection_rungs(self, prefix: str, train: bool, gradients: bool, phase: int = 0) -> Iterator[Rung]:
        batch = parity_batch(self.reference.spec, self.batch_size, self.seed, step=0)
        ours: Inspection = self.reference.inspect(batch, train, gradients, phase)
        theirs: Inspection = self.candidate.inspect(batch, train, gradients, phase)
        stages = list(ours.activations)
        names = ({"stage names": np.asarray(list(found.activations))} for found in (ours, theirs))
        yield self._forward(f"{prefix}stage names", "shapes", exact_difference(*names))
        for stage in stages:
            found = {name: output for name, output in theirs.activations.items() if name == stage}
            difference = largest_difference({stage: ours.activations[stage]}, found)
            yield self._forward(f"{prefix}stage {stage}", "activations", difference)
        for name, output in ours.outputs.items():
            difference = largest_difference({name: output}, {n: o for n, o in theirs.outputs.items() if n == name})
            yield self._forward(f"{prefix}{name}", name, difference)
        losses = largest_difference(_scalars(ours.losses), _scalars(theirs.losses))
        yield self._forward(f"{prefix}losses", "loss", losses)
        if gradients:
            difference = largest_difference(ours.gradients, theirs.gradients)
            yield Rung(f"{prefix}gradients", "grads", difference, self.tolerances.gradients)
            difference = difference_of_norms(ours.gradients, theirs.gradients)
            yield Rung(f"{prefix}gradient as a whole", "whole_gradient", difference, self.tolerances.whole_gradient)

    def _training_rungs(self, progress: Callable[[str], None]) -> Iterator[Rung]:
        measured: dict[str, tuple[Arrays, Arrays]] = {}
        for step in range(self.steps):
            progress(f"step {step + 1} of {self.steps}")
            batch = parity_batch(self.reference.spec, self.batch_size, self.seed, step)
            rate = learning_rate(step)
            phase = self._plan.phase_of_epoch(step)  # a step of each in turns
            pending = [engine.train_step(batch, rate, step, phase=phase) for engine in (self.reference, self.candidate)]
            ours, theirs = (_figures(step, p.fetch()) for p in pending)
            for kind in ours:
                both = measured.setdefault(kind, ({}, {}))
                both[0].update(ours[kind])
                both[1].update(theirs[kind])
            if step == 0:
                yield from self._state_rungs("step 1: ", measured)
        if self.steps > 1:
            yield from self._state_rungs(f"{self.steps} steps: ", measured)
        progress("prediction")
        volume = parity_batch(self.reference.spec, self.batch_size, self.seed, self.steps)["volume"]
        logits = ({"logits": engine.predict(volume)} for engine in (self.reference, self.candidate))
        difference = largest_difference(*logits)
        # `predict` returns float32 whatever the precision, so two equal values may round to neighbours.
        tolerance = None if self.tolerances.training is None else max(self.tolerances.training, 1e-6)
        yield Rung("prediction", "prediction", difference, tolerance)

    def _state_rungs(self, prefix: str, measured: Mapping[str, tuple[Arrays, Arrays]]) -> Iterator[Rung]:
        yield self._training(f"{prefix}losses", "loss", largest_difference(*measured["loss"]))
        yield self._training(f"{prefix}gradient norm", "gradient_norm", largest_difference(*measured["gradient_norm"]))
        ours, theirs = self.reference.state(), self.candidate.state()
        yield self._training(f"{prefix}trees", "shapes", exact_difference(_names_of(ours), _names_of(theirs)))
        for moment in ("exp_avg/", "exp_avg_sq/", "step"):
            # Apart, because the floor of the comparison is a part of the largest value: squares have another scale.
            difference = largest_difference(*(_starting(moment, state["optimizer"]) for state in (ours, theirs)))
            yield self._training(f"{prefix}{moment.rstrip('/')}", "optimizer", difference)
        for tree in ours.keys() & theirs.keys() - {"optimizer"}:
            named = "" if tree == "model" else f"{tree}'s "
            for what, kind, buffers in (("parameters", "params", False), ("batch_stats", "batch_stats", True)):
                difference = largest_difference(*(_buffers(state[tree], buffers) for state in (ours, theirs)))
                yield self._training(f"{prefix}{named}{what}", kind, difference)

    def _forward(self, name: str, kind: str, difference: Difference) -> Rung:
        return Rung(name, kind, difference, self.tolerances.forward)

    def _training(self, name: str, kind: str, difference: Difference) -> Rung:
        return Rung(name, kind, difference, self.tolerances.training)


def _scalars(values: Mapping[str, float]) -> Arrays:
    return {name: np.asarray(value) for name, value in values.items()}


def _figures(step: int, metrics: StepMetrics) -> dict[str, Arrays]:
    losses = {"loss": np.asarray(metrics.loss), **_scalars(metrics.terms), "case_losses": metrics.case_losses}
    return {
        "loss": {f"{name} of step {step + 1}": value for name, value in losses.items()},
        "gradient_norm": {f"gradient norm of step {step + 1}": np.asarray(metrics.gradient_norm)},
    }


def _names_of(state: Mapping[str, Arrays]) -> Arrays:
    return {"trees": np.asarray(sorted(state))}


def _starting(prefix: str, arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name.startswith(prefix)}


def _buffers(weights: Arrays, buffers: bool) -> Arrays:
    return {name: array for name, array in weights.items() if name.endswith(BUFFERS) == buffers}
