"""Losses of the tasks, per case; the engine takes the mean over the batch.

Equations 1 to 5 of the AutoSeg paper with the choices named in `anatobench/recipes.py`: a sample's weight multiplies
its loss, and nothing is divided by the sum of weights. A missing target and a voxel without mask contribute 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, LabelGroup, Task


@dataclass(frozen=True)
class CaseLosses:
    """Each of shape [B]."""

    total: Tensor
    classification: Tensor
    any_injury: Tensor
    segmentation: Tensor


def case_losses(task: Task, recipe: Recipe, logits: Tensor, targets: Tensor, segmentation: Tensor | None) -> CaseLosses:
    """Every term of the loss and their weighted sum.

    logits [B, logits], targets int8 [B, groups], segmentation [B] (`segmentation_loss`) or None without the branch.
    """
    targets = targets.long()
    classification = classification_loss(task, logits, targets)
    any_injury = any_injury_loss(task, logits, targets)
    if segmentation is None:
        segmentation = torch.zeros_like(classification)
    total = classification + recipe.any_injury_weight * any_injury + recipe.segmentation_weight * segmentation
    return CaseLosses(total, classification, any_injury, segmentation)


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
    """The weight of each case's true grade, [B]. (No lookup table: copying one to a GPU would wait for the GPU.)"""
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
    """The logit of "not grade 0", [B]: p_healthy = sigmoid(-injury_logit) for sigmoid and softmax groups alike."""
    if group.binary:
        return logits[:, 0]
    return torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]


def segmentation_loss(recipe: Recipe, seg_logits: Tensor, organs: Tensor) -> Tensor:
    """Cross-entropy, soft Dice loss or their sum, [B]; 0 for a case whose voxels are all ignored.

    seg_logits [B, classes, D, H, W], organs uint8 [B, D, H, W].
    """
    organs = organs.long()
    valid = organs != IGNORED_ORGAN
    loss = torch.zeros_like(seg_logits[:, 0, 0, 0, 0])
    if recipe.segmentation_loss in ("ce", "ce_dice"):
        loss = loss + voxel_cross_entropy(seg_logits, organs, valid)
    if recipe.segmentation_loss in ("dice", "ce_dice"):
        loss = loss + dice_loss(seg_logits, organs, valid, recipe.dice_smooth)
    return loss


def voxel_cross_entropy(seg_logits: Tensor, organs: Tensor, valid: Tensor) -> Tensor:
    """Mean over each case's valid voxels, background included, [B]."""
    losses = F.cross_entropy(seg_logits, organs, ignore_index=IGNORED_ORGAN, reduction="none")
    return losses.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)


def dice_loss(seg_logits: Tensor, organs: Tensor, valid: Tensor, smooth: float) -> Tensor:
    """Mean over organs (background left out) of 1 - (2 |P T| + s) / (|P| + |T| + s) over valid voxels, [B]."""
    classes = seg_logits.shape[1]
    probability = torch.softmax(seg_logits, 1)[:, 1:] * valid.unsqueeze(1)
    truth = torch.stack([organs == organ for organ in range(1, classes)], 1).to(seg_logits.dtype)
    overlap = (probability * truth).flatten(2).sum(2)
    extent = probability.flatten(2).sum(2) + truth.flatten(2).sum(2)
    loss = 1.0 - (2.0 * overlap + smooth) / (extent + smooth)
    return torch.where(valid.flatten(1).any(1), loss.mean(1), 0.0)
