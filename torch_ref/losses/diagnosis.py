"""The terms of a diagnosis with organ masks, per case; the engine takes the mean over the batch.

Equations 1 to 5 of the AutoSeg paper with the choices named in `anatobench/recipes.py`: a sample's weight multiplies
its loss, and nothing is divided by the sum of weights. A missing target and a voxel without mask contribute 0. A
case's own weight multiplies what its findings cost, not what its organs do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.objectives.heads import SEGMENTATION
from anatobench.recipes import Recipe
from anatobench.tasks import MISSING_TARGET, LabelGroup, Task
from torch_ref.layers.segmentation_kernels import segmentation_loss_fused
from torch_ref.layers.triton_language import kernels_run_on
from torch_ref.losses.segmentation import segmentation_loss
from torch_ref.losses.segmentation_by_parts import segmentation_loss_by_parts
from torch_ref.step import View


def diagnosis_terms(task: Task, recipe: Recipe, view: View, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`classification`, `any_injury` and `segmentation` (0 without that head), each [B].

    arrays: targets int8 [B, groups], organs uint8 [B, D, H, W], and weight float32 [B, 1] if the cases have weights.
    """
    targets = arrays["targets"].long()
    classification = classification_loss(task, view.logits, targets)
    any_injury = any_injury_loss(task, view.logits, targets)
    if "weight" in arrays:
        weight = arrays["weight"][:, 0].to(classification.dtype)
        classification, any_injury = weight * classification, weight * any_injury
    segmentation = segmentation_term(recipe, view, arrays["organs"])
    if segmentation is None:
        segmentation = torch.zeros_like(classification)
    return {"classification": classification, "any_injury": any_injury, "segmentation": segmentation}


def segmentation_term(recipe: Recipe, view: View, organs: Tensor) -> Tensor | None:
    """Return the segmentation head's loss [B] in the plain form or a fast one; None for a model without the head."""
    if not view.forms & {"segmentation", "segmentation_kernel"}:
        seg_logits = view.upsampled(SEGMENTATION)
        return None if seg_logits is None else segmentation_loss(recipe, seg_logits, organs)
    coarse = view.coarse(SEGMENTATION)
    if coarse is None:
        return None
    if "segmentation_kernel" in view.forms and kernels_run_on(coarse):
        return segmentation_loss_fused(coarse, organs, recipe.segmentation_loss, recipe.dice_smooth)
    return segmentation_loss_by_parts(recipe, coarse, organs)


def classification_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the binary groups plus mean over the graded groups, [B]."""
    binary: list[Tensor] = []
    graded: list[Tensor] = []
    for group, columns, grade in zip(task.groups, task.logit_slices, targets.unbind(1), strict=True):
        (binary if group.binary else graded).append(group_loss(group, logits[:, columns], grade))
    terms = [torch.stack(losses, 1).mean(1) for losses in (binary, graded) if losses]
    return torch.stack(terms).sum(0)


def group_loss(group: LabelGroup, logits: Tensor, grade: Tensor) -> Tensor:
    """Weighted binary cross-entropy (one logit) or cross-entropy (one logit per grade), [B]."""
    known = grade != MISSING_TARGET
    grade = grade.clamp(min=0)
    if group.binary:
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], grade.to(logits.dtype), reduction="none")
    else:
        loss = F.cross_entropy(logits, grade, reduction="none")
    return torch.where(known, sample_weight(group, grade) * loss, 0.0)


def sample_weight(group: LabelGroup, grade: Tensor) -> Tensor:
    """Return the weight of each case's true grade, [B]. (No lookup table: copying one to a GPU would wait for the
    GPU.)"""
    return torch.stack([(grade == index) * weight for index, weight in enumerate(group.sample_weights)]).sum(0)


def any_injury_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Weighted binary cross-entropy of p = 1 - prod(p_healthy) against "any group injured", [B].

    A case counts as missing if it has no known injury and some group is unknown. log p is never taken of a
    difference: p is the sum over groups of "this group is the first injured one", prod(p_healthy of those before) *
    p_injured, so that log p is a logsumexp of sums of log-sigmoids, exact and with bounded gradients at any logits.
    """
    if task.any_injury_sample_weights is None:
        return torch.zeros_like(logits[:, 0])
    injured = torch.stack(
        [
            injury_logit(group, logits[:, columns])
            for group, columns in zip(task.groups, task.logit_slices, strict=True)
        ],
        1,
    )
    log_healthy = F.logsigmoid(-injured)
    log_all_before_healthy = log_healthy.cumsum(1) - log_healthy
    log_none = log_healthy.sum(1)
    log_any = torch.logsumexp(log_all_before_healthy + F.logsigmoid(injured), 1)
    truth = (targets > 0).any(1)
    known = truth | (targets != MISSING_TARGET).all(1)
    weight_none, weight_any = task.any_injury_sample_weights
    loss = torch.where(truth, -weight_any * log_any, -weight_none * log_none)
    return torch.where(known, loss, 0.0)


def injury_logit(group: LabelGroup, logits: Tensor) -> Tensor:
    """Return the logit of "not grade 0", [B]: p_healthy = sigmoid(-injury_logit) for sigmoid and softmax groups
    alike."""
    if group.binary:
        return logits[:, 0]
    return torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]
