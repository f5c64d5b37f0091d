"""The segmentation loss of organ masks, per case: from full-size logits, plainly.

A voxel without mask contributes 0, and so does a case that has none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN


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
