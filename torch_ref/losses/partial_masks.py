"""The terms of partly annotated masks, per case: a sigmoid per class, and no loss where nothing is annotated.

A class that is not annotated for a case, and a voxel without mask, have no part in either term: their logits are put
to 0 before anything is computed of them, so that the gradient by them is exactly 0, whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.objectives.heads import PARTIAL_MASKS
from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN, Task
from torch_ref.step import View


def partial_masks_terms(task: Task, recipe: Recipe, view: View, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`mask_cross_entropy` and `mask_dice`, each [B], the mean over the classes annotated for the case.

    arrays: organs uint8 [B, D, H, W], annotated int8 [B, classes], 1 where the class is annotated.
    """
    logits = view.upsampled(PARTIAL_MASKS)
    assert logits is not None, "the plan asks for the head"
    organs, annotated = arrays["organs"], arrays["annotated"] == 1
    seen = annotated[:, :, None, None, None] & (organs != IGNORED_ORGAN)[:, None]
    logits = torch.where(seen, logits, 0.0)
    truth = class_masks(organs, task.organ_sets) & seen
    has_mask = (organs != IGNORED_ORGAN).flatten(1).any(1)
    counted = annotated & has_mask[:, None]
    return {
        "mask_cross_entropy": mean_over(counted, mask_cross_entropy(logits, truth, seen)),
        "mask_dice": mean_over(counted, mask_dice_loss(logits, truth, seen, recipe.dice_smooth)),
    }


def class_masks(organs: Tensor, organ_sets: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return which voxels are of each class, bool [B, classes, D, H, W]: a class is a set of organ indices."""
    masks = []
    for first, *rest in organ_sets:
        mask = organs == first
        for organ in rest:
            mask = mask | (organs == organ)
        masks.append(mask)
    return torch.stack(masks, 1)


def mask_cross_entropy(logits: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the voxels seen, [B, classes]."""
    losses = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")
    return torch.where(seen, losses, 0.0).flatten(2).sum(2) / seen.flatten(2).sum(2).clamp(min=1)


def mask_dice_loss(logits: Tensor, truth: Tensor, seen: Tensor, smooth: float) -> Tensor:
    """1 - (2 |P T| + s) / (|P| + |T| + s) over the voxels seen of a case's volume, [B, classes]."""
    probability = torch.where(seen, torch.sigmoid(logits), 0.0)
    overlap = (probability * truth).flatten(2).sum(2)
    extent = probability.flatten(2).sum(2) + truth.to(logits.dtype).flatten(2).sum(2)
    return 1.0 - (2.0 * overlap + smooth) / (extent + smooth)


def mean_over(counted: Tensor, losses: Tensor) -> Tensor:
    """Return the mean over the classes that count for each case, [B]; 0 where none does."""
    return torch.where(counted, losses, 0.0).sum(1) / counted.sum(1).clamp(min=1)
