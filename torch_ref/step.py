"""What losses see of the model, what a step differentiates, and the step itself: one of each for training, inspection
and Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anatobench.engine import ModelSpec
from anatobench.objectives.heads import HEADS
from anatobench.objectives.objective import Phase
from anatobench.recipes import Recipe
from anatobench.tasks import Size, Task
from torch_ref.layers.upsampling import upsample_trilinear
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.optimizer import clip_and_update
from torch_ref.precision import Precision
from torch_ref.preprocessing import normalise
from torch_ref.ranges import named_range

Record = Callable[[str, Tensor], None]
CaseTerms = Callable[[Task, Recipe, "View", Mapping[str, Tensor]], dict[str, Tensor]]
"""The terms of a kind of supervision, each [B], from what the model makes of a batch and the batch's arrays."""
LOSS_FORMS = {"segmentation", "segmentation_kernel"}
"""Fast forms that losses take; the others are the layers'."""


@dataclass
class TrainState:
    """What a step changes."""

    model: DiagnosisModel
    optimizer: torch.optim.AdamW
    teacher: DiagnosisModel | None


class View:
    """What the losses of a kind of supervision see of the model for one batch: each output is computed when it is asked
    for, once.

    (Not by `functools.cached_property`: in Python 3.11 it takes a lock, with which no step compiles.)
    """

    def __init__(
        self,
        model: DiagnosisModel,
        features: Tensor,
        size: Size,
        forms: frozenset[str],
        teacher: Callable[[], View] | None = None,
    ) -> None:
        self._model = model
        self.features = features
        """The feature map F [B, C, d, h, w]."""
        self.size = size
        """Of the crop, (D, H, W)."""
        self.forms = forms
        """The fast forms (anatobench/fast_forms.py) that losses may take."""
        self._build_teacher = teacher
        self._teacher: View | None = None
        self._logits: Tensor | None = None
        self._coarse: dict[str, Tensor | None] = {}

    @property
    def teacher(self) -> View:
        """What the teacher makes of the same batch, in evaluation mode and without gradient."""
        if self._teacher is None:
            assert self._build_teacher is not None, "a teacher's view has none"
            self._teacher = self._build_teacher()
        return self._teacher

    @property
    def logits(self) -> Tensor:
        """[B, logits], the classifier's."""
        if self._logits is None:
            self._logits = self._model.classify(self.features)
        return self._logits

    def coarse(self, head: str) -> Tensor | None:
        """Return an auxiliary head's logits before upsampling, [B, classes, d, h, w]; None for a model without the
        head."""
        if head not in self._coarse:
            self._coarse[head] = self._model.coarse(head, self.features)
        return self._coarse[head]

    def upsampled(self, head: str) -> Tensor | None:
        """Return the same at the crop's size, [B, classes, D, H, W]."""
        coarse = self.coarse(head)
        return None if coarse is None else upsample_trilinear(coarse, self.size)

    def of_every_head(self) -> Iterator[Tensor]:
        """Yield the logits of all heads, before upsampling: [B, logits] or [B, classes, d, h, w]."""
        yield self.logits
        for head in self._model.auxiliary:
            output = self.coarse(head)
            assert output is not None, "the model has its own heads"
            yield output


class Objective(nn.Module):
    """From a batch as it travels to every term of a phase's loss per case."""

    def __init__(
        self, state: TrainState, phase: Phase, terms: CaseTerms, spec: ModelSpec, recipe: Recipe, precision: Precision,
        forms: set[str],
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = state.model
        self._teacher = [state.teacher]  # in a list: no module of this one, so that nothing trains it
        self.phase, self.spec, self.recipe, self.precision = phase, spec, recipe, precision
        self.terms = terms
        self.forms = frozenset(forms & LOSS_FORMS)

    def forward(self, arrays: dict[str, Tensor], record: Record | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Turn the batch's arrays into the weighted sum of the terms and the terms, each [B]; `record` is shown the
        stages' outputs and every head's logits."""
        view = self._view(arrays["volume"], record)
        returned = self.terms(self.spec.task, self.recipe, view, arrays)
        terms = self.phase.objective.chosen(returned, cases=len(arrays["volume"]))
        total = weighted_sum(self.phase.objective.terms, terms)
        for output in view.of_every_head():
            # What no term reaches, or none but through `detach`, gets a gradient of 0, as in JAX, instead of none, for
            # which DistributedDataParallel would wait, and without which AdamW would neither decay nor count.
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
            if teacher is None:
                raise self.phase.objective.without_teacher()
            with torch.no_grad():
                return View(teacher, self._features(teacher, volume), size, self.forms)

        features = self.features(volume, record)
        return View(self.model, features, size, self.forms, of_teacher)

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
