"""What a step differentiates, and the step itself: one of each for training, inspection and Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anatobench.engine import ModelSpec
from anatobench.objectives.heads import HEADS
from anatobench.objectives.objective import Phase
from anatobench.recipes import Recipe
from anatobench.tasks import Size
from torch_ref.losses import CASE_TERMS
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.optimizer import clip_and_update
from torch_ref.precision import Precision
from torch_ref.preprocessing import normalise
from torch_ref.ranges import named_range
from torch_ref.view import View

Record = Callable[[str, Tensor], None]
LOSS_FORMS = {"segmentation", "segmentation_kernel"}
"""Fast forms that losses take; the others are the layers'."""


@dataclass
class TrainState:
    """What a step changes."""

    model: DiagnosisModel
    optimizer: torch.optim.AdamW
    teacher: DiagnosisModel | None


class Objective(nn.Module):
    """From a batch as it travels to every term of a phase's loss per case."""

    def __init__(
        self, state: TrainState, phase: Phase, spec: ModelSpec, recipe: Recipe, precision: Precision, forms: set[str]
    ) -> None:
        super().__init__()
        self.model = state.model
        self._teacher = [state.teacher]  # in a list: no module of this one, so that nothing trains it
        self.phase, self.spec, self.recipe, self.precision = phase, spec, recipe, precision
        self.terms = CASE_TERMS[phase.objective.kind]
        self.forms = frozenset(forms & LOSS_FORMS)

    def forward(self, arrays: dict[str, Tensor], record: Record | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Turn the batch's arrays into the weighted sum of the terms and the terms, each [B]; `record` is shown the
        stages' outputs and every head's logits."""
        view = self._view(arrays["volume"], record)
        returned = self.terms(self.spec.task, self.recipe, view, arrays)
        terms = {name: returned[name] for name in self.phase.objective.terms}
        total = weighted_sum(self.phase.objective.terms, terms)
        for output in view.unused(whatever_was_asked=len(terms) < len(returned)):
            # Its weights get a gradient of 0, as in JAX, instead of none, for which DistributedDataParallel would wait.
            # A head may also have been asked for by a term that the phase leaves out.
            total = total + 0.0 * output.flatten(1).sum(1)
        if record is not None:
            for name in self.spec.heads:
                shown = view.logits if HEADS[name].kind == "classifier" else view.upsampled(name)
                assert shown is not None, "the model has the heads of its spec"
                record(HEADS[name].shown_as, shown)
        return total, terms

    def features(self, volume: Tensor, record: Record | None = None) -> Tensor:
        """int16 [B, D, H, W] to the feature map."""
        return self._features(self.model, volume, record)

    def logits(self, volume: Tensor) -> Tensor:
        """int16 [B, D, H, W] to [B, logits]."""
        return self.model.classify(self.features(volume))

    def _view(self, volume: Tensor, record: Record | None) -> View:
        size = size_of(volume)
        (teacher,) = self._teacher

        def of_teacher() -> View:
            assert teacher is not None
            with torch.no_grad():
                return View(teacher, self._features(teacher, volume), size, self.forms)

        features = self.features(volume, record)
        return View(self.model, features, size, self.forms, None if teacher is None else of_teacher)

    def _features(self, model: DiagnosisModel, volume: Tensor, record: Record | None = None) -> Tensor:
        x = normalise(volume, self.spec.task.window, self.precision.parameter_dtype)
        with self.precision.autocast(x.device):
            return model.features(x, record)


def train_step(
    objective: nn.Module, state: TrainState, phase: Phase, clip_norm: float, learning_rate: float,
    arrays: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """Forward, backward, clip, AdamW, teacher; the step's figures by name and the loss of each case [B].

    `objective` is the phase's `Objective`, or what averages its gradients over processes.
    """
    state.optimizer.zero_grad()  # before the forward pass, which can use their memory
    with named_range("forward"):
        total, terms = objective(dict(arrays))
    with named_range("backward"):
        total.mean().backward()
    with named_range("optimizer"):
        norm = clip_and_update(state.optimizer, clip_norm, learning_rate)
    if phase.teacher is not None and state.teacher is not None:
        with named_range("teacher"):
            follow(state.teacher, state.model, phase.teacher)
    return {**means(total, terms), "gradient_norm": norm}, total


def weighted_sum(weights: Mapping[str, float], terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms, each [B], in the order of the weights; returns [B]."""
    first, *rest = [terms[name] if weight == 1.0 else weight * terms[name] for name, weight in weights.items()]
    for term in rest:
        first = first + term
    return first


def means(total: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Over the batch: `loss` and every term, scalars."""
    return {"loss": total.mean(), **{name: term.mean() for name, term in terms.items()}}


@torch.no_grad()
def follow(teacher: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters and running values (1 - momentum) of the way to the model's."""
    ours, theirs = teacher.state_dict(), model.state_dict()
    floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[name] for name in floating], [theirs[name] for name in floating], 1.0 - momentum)


def size_of(volume: Tensor) -> Size:
    """(D, H, W) of [B, D, H, W]."""
    _, depth, height, width = volume.shape
    return depth, height, width
