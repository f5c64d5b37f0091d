"""Mistakes a port makes, each planted into the PyTorch engine, and the rung of the parity ladder that must see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torch_ref.engine as engine_module
import torch_ref.losses.diagnosis as losses_module
import torch_ref.losses.segmentation as segmentation_module
import torch_ref.step as step_module
from anatobench.tasks import WINDOWS
from torch_ref.losses import CASE_TERMS
from torch_ref.models.diagnosis_model import DiagnosisModel
from torch_ref.weights import export_weights, import_weights

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """`plant` is called before the engine is built."""

    name: str
    first_red_rung: str
    plant: Plant


def in_model(change: Callable[[DiagnosisModel], None]) -> Plant:
    """Plant a fault in the model's modules, planted as soon as they are built."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = engine_module._build_model

        def build(*args: Any) -> DiagnosisModel:
            model = original(*args)
            change(model)
            return model

        monkeypatch.setattr(engine_module, "_build_model", build)

    return plant


def in_place_of(module: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Plant a fault in one function or method: `make` is given the right one."""
    return lambda monkeypatch: monkeypatch.setattr(module, name, make(getattr(module, name)))


def in_dict(table: dict[str, Any], name: str, make: Callable[[Any], Any]) -> Plant:
    """As `in_place_of`, of an entry of a registry."""
    return lambda monkeypatch: monkeypatch.setitem(table, name, make(table[name]))


def for_every(kind: type[nn.Module], **settings: Any) -> Plant:
    """Plant another setting in every module of a kind."""

    def change(model: DiagnosisModel) -> None:
        for module in model.modules():
            if isinstance(module, kind):
                for name, value in settings.items():
                    setattr(module, name, value)

    return in_model(change)


# Weights and layers


def kernel_axes_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth and width of the 3x3x3 kernels, on the way in and on the way out: the round trip cannot see it."""

    def swapped(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        of_blocks = {n for n, w in weights.items() if w.shape[2:] == (3, 3, 3)}
        return {n: np.ascontiguousarray(w.swapaxes(2, 4)) if n in of_blocks else w for n, w in weights.items()}

    monkeypatch.setattr(engine_module, "import_weights", lambda model, weights: import_weights(model, swapped(weights)))
    monkeypatch.setattr(engine_module, "export_weights", lambda model: swapped(export_weights(model)))


def same_padding(model: DiagnosisModel) -> None:
    """TensorFlow's and Flax's SAME: a strided convolution of an even size is padded at the end alone."""
    conv = model.backbone.get_submodule("layer2.0.conv1.0")
    assert isinstance(conv, nn.Conv3d)
    conv.padding = (0, 0, 0)
    conv.register_forward_pre_hook(lambda _, inputs: F.pad(inputs[0], (0, 1) * 3))


def no_relu_after_addition(model: DiagnosisModel) -> None:
    model.backbone.get_submodule("layer1.0").relu = nn.Identity()


def biased_running_variance(module: nn.BatchNorm3d, x: Tensor) -> Tensor:
    if module.training:
        assert module.running_mean is not None
        assert module.running_var is not None
        assert module.momentum is not None
        with torch.no_grad():
            mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
            module.running_mean.lerp_(mean, module.momentum)
            module.running_var.lerp_(variance, module.momentum)
        return F.batch_norm(x, None, None, module.weight, module.bias, True, 0.0, module.eps)
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps)


def always_batch_statistics(module: nn.BatchNorm3d, x: Tensor) -> Tensor:
    assert module.momentum is not None
    running = (module.running_mean, module.running_var) if module.training else (None, None)
    return F.batch_norm(x, *running, module.weight, module.bias, True, module.momentum, module.eps)


def interpolated(**settings: Any) -> Plant:
    """Plant another way of the head's upsampling."""
    return lambda monkeypatch: monkeypatch.setattr(
        F, "interpolate", lambda x, size, **_: _INTERPOLATE(x, size=size, **settings)
    )


_INTERPOLATE = F.interpolate


# Losses


def with_task(change: Callable[[Any], Any]) -> Plant:
    """Let the losses see another task."""
    return in_dict(CASE_TERMS, "diagnosis", lambda right: lambda task, *rest: right(change(task), *rest))


def swapped_sample_weights(task: Any) -> Any:
    bowel, extravasation, *rest = task.groups
    swapped = (
        replace(bowel, sample_weights=extravasation.sample_weights),
        replace(extravasation, sample_weights=bowel.sample_weights),
    )
    return replace(task, groups=(*swapped, *rest))


def any_injury_of_maximum(right: Any) -> Any:
    """p = max over groups (the Kaggle metric), instead of 1 - prod(p_healthy)."""

    def loss(task: Any, logits: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(task.groups, task.logit_slices, strict=True)
        worst = torch.stack([losses_module.injury_logit(g, logits[:, c]) for g, c in pairs], 1).amax(1)
        truth = (targets > 0).any(1).to(logits.dtype)
        none, injured = task.any_injury_sample_weights
        weight = none + (injured - none) * truth
        losses: Tensor = weight * F.binary_cross_entropy_with_logits(worst, truth, reduction="none")
        return losses

    return loss


def missing_as_healthy(right: Any) -> Any:
    return lambda group, logits, grade: right(group, logits, grade.clamp(min=0))


def divided_by_weights(right: Any) -> Any:
    def loss(group: Any, logits: Tensor, grade: Tensor) -> Tensor:
        weights = losses_module.sample_weight(group, grade.clamp(min=0))
        losses: Tensor = right(group, logits, grade) * len(grade) / weights.sum()
        return losses

    return loss


def background_ignored(right: Any) -> Any:
    return lambda seg_logits, organs, valid: right(seg_logits, organs.masked_fill(organs == 0, 255), valid)


def mean_over_the_batch_of_voxels(right: Any) -> Any:
    def loss(seg_logits: Tensor, organs: Tensor, valid: Tensor) -> Tensor:
        return F.cross_entropy(seg_logits, organs, ignore_index=255).expand(len(organs))

    return loss


def dice_of_the_batch(right: Any) -> Any:
    """Overlap summed over cases too, instead of per case."""

    def loss(seg_logits: Tensor, organs: Tensor, valid: Tensor, smooth: float) -> Tensor:
        joined = seg_logits.transpose(0, 1).flatten(1, 2)[None], organs.flatten(0, 1)[None], valid.flatten(0, 1)[None]
        loss_of_all: Tensor = right(*joined, smooth)
        return loss_of_all.expand(len(organs))

    return loss


# Optimizer


def optimizer_with(**settings: float | tuple[float, float]) -> Plant:
    """AdamW with other settings."""

    def make(right: Any) -> Any:
        def build(parameters: Any, recipe: Any) -> torch.optim.AdamW:
            optimizer: torch.optim.AdamW = right(parameters, recipe)
            optimizer.param_groups[0].update(settings)
            return optimizer

        return build

    return in_place_of(engine_module, "build_optimizer", make)


def coupled_weight_decay(right: Any) -> Any:
    """Adam with an L2 penalty, as before AdamW."""
    return lambda parameters, recipe: torch.optim.Adam(
        parameters, eps=recipe.adam_epsilon, weight_decay=recipe.weight_decay
    )


def decay_of_kernels_alone(right: Any) -> Any:
    """Leave out weight decay on biases and BatchNorm, as other recipes have it."""

    def update(optimizer: torch.optim.AdamW, clip_norm: float, learning_rate: float) -> Tensor:
        (group,) = optimizer.param_groups
        vectors = [(p, p.detach().clone()) for p in group["params"] if p.ndim == 1]
        norm: Tensor = right(optimizer, clip_norm, learning_rate)
        with torch.no_grad():
            for parameter, before in vectors:
                parameter.add_(before, alpha=learning_rate * group["weight_decay"])
        return norm

    return update


def clip_without_constant(right: Any) -> Any:
    """optax's formula: clip_norm / norm."""

    def update(optimizer: torch.optim.AdamW, clip_norm: float, learning_rate: float) -> Tensor:
        gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, (clip_norm / norm).clamp(max=1.0))
        right(optimizer, 1e30, learning_rate)
        return norm

    return update


def clip_by_value(right: Any) -> Any:
    def update(optimizer: torch.optim.AdamW, clip_norm: float, learning_rate: float) -> Tensor:
        parameters = optimizer.param_groups[0]["params"]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        torch.nn.utils.clip_grad_value_(parameters, clip_norm)
        right(optimizer, 1e30, learning_rate)
        return norm

    return update


def rate_of_next_step(right: Any) -> Any:
    return lambda self, batch, learning_rate, step, **rest: right(self, batch, 0.9 * learning_rate, step, **rest)


def gradients_not_cleared(right: Any) -> Any:
    def build(parameters: Any, recipe: Any) -> torch.optim.AdamW:
        optimizer: torch.optim.AdamW = right(parameters, recipe)
        optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]  # the fault itself
        return optimizer

    return build


BATCH_NORM = nn.BatchNorm3d
FAULTS = (
    Fault("window of the other anatomy", "stage stem", in_place_of(step_module, "normalise", lambda right: lambda
          volume, window, dtype: right(volume, WINDOWS["chest"], dtype))),
    Fault("not clipped to the window", "stage stem", in_place_of(step_module, "normalise", lambda right: lambda
          volume, window, dtype: ((volume.to(dtype) - window[0]) * (2 / (window[1] - window[0])) - 1).unsqueeze(1))),
    Fault("window mapped to [0, 1]", "stage stem", in_place_of(step_module, "normalise", lambda right: lambda
          *arguments: (right(*arguments) + 1) / 2)),
    Fault("BatchNorm epsilon 1e-3", "stage stem", for_every(BATCH_NORM, eps=1e-3)),
    Fault("BatchNorm epsilon 1e-6", "stage stem", for_every(BATCH_NORM, eps=1e-6)),
    Fault("kernel axes swapped", "stage layer1.0", kernel_axes_swapped),
    Fault("no ReLU after the addition", "stage layer1.0", in_model(no_relu_after_addition)),
    Fault("SAME padding", "stage layer2.0", in_model(same_padding)),
    Fault("pooling by maximum", "logits", in_place_of(DiagnosisModel, "classify", lambda right: lambda
          self, features, *rest: right(self, features.amax((2, 3, 4), keepdim=True), *rest))),
    Fault("classifier without bias", "logits", in_place_of(DiagnosisModel, "classify", lambda right: lambda
          self, *rest: right(self, *rest) - self.backbone.fc.bias)),
    Fault("segmentation head without bias", "seg_logits", in_place_of(DiagnosisModel, "coarse", lambda right: lambda
          self, *rest: right(self, *rest) - self.segmentation_head.bias[:, None, None, None])),
    Fault("align_corners=True", "seg_logits", interpolated(mode="trilinear", align_corners=True)),
    Fault("nearest upsampling", "seg_logits", interpolated(mode="nearest")),
    Fault("sample weights swapped", "losses", with_task(swapped_sample_weights)),
    Fault("divided by the sum of weights", "losses", in_place_of(losses_module, "group_loss", divided_by_weights)),
    Fault("missing label taken as healthy", "losses", in_place_of(losses_module, "group_loss", missing_as_healthy)),
    Fault("any_injury as maximum", "losses", in_place_of(losses_module, "any_injury_loss", any_injury_of_maximum)),
    Fault("background ignored", "losses", in_place_of(segmentation_module, "voxel_cross_entropy", background_ignored)),
    Fault("mean over the batch's voxels", "losses",
          in_place_of(segmentation_module, "voxel_cross_entropy", mean_over_the_batch_of_voxels)),
    Fault("Dice of the batch", "losses", in_place_of(segmentation_module, "dice_loss", dice_of_the_batch)),
    Fault("any_injury without gradient", "gradients", in_place_of(losses_module, "any_injury_loss", lambda right:
          lambda *arguments: right(*arguments).detach())),
    Fault("segmentation does not reach the backbone", "gradients", in_place_of(DiagnosisModel, "coarse", lambda
          right: lambda self, head, features: right(self, head, features.detach()))),
    Fault("batch statistics in evaluation", "evaluation stage stem",
          in_place_of(BATCH_NORM, "forward", lambda right: always_batch_statistics)),
    Fault("clip without + 1e-6", "step 1: exp_avg",
          in_place_of(step_module, "clip_and_update", clip_without_constant)),
    Fault("clip by value", "step 1: exp_avg", in_place_of(step_module, "clip_and_update", clip_by_value)),
    Fault("weight decay coupled", "step 1: exp_avg",
          in_place_of(engine_module, "build_optimizer", coupled_weight_decay)),
    Fault("Adam beta 2 of 0.99", "step 1: exp_avg_sq", optimizer_with(betas=(0.9, 0.99))),
    Fault("Adam epsilon 1e-6", "step 1: parameters", optimizer_with(eps=1e-6)),
    Fault("no weight decay", "step 1: parameters", optimizer_with(weight_decay=0.0)),
    Fault("weight decay of kernels alone", "step 1: parameters",
          in_place_of(step_module, "clip_and_update", decay_of_kernels_alone)),
    Fault("learning rate of the next step", "step 1: parameters",
          in_place_of(engine_module.TorchEngine, "train_step", rate_of_next_step)),
    Fault("BatchNorm momentum 0.01", "step 1: batch_stats", for_every(BATCH_NORM, momentum=0.01)),
    Fault("biased running variance", "step 1: batch_stats",
          in_place_of(BATCH_NORM, "forward", lambda right: biased_running_variance)),
    Fault("gradients not cleared", "2 steps: gradient norm",
          in_place_of(engine_module, "build_optimizer", gradients_not_cleared)),
)  # fmt: skip
