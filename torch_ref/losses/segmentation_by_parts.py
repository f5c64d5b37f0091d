"""The segmentation loss of segmentation.py from logits before their upsampling, a part of the depth at a time.

A chest batch's full-size logits take a gigabyte in float32, those of its feature map a four-thousandth of that. So they
are upsampled slab by slab; of each slab only sums are kept, and the backward pass computes it once more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN
from torch_ref.layers.upsampling import interpolate_axis, interpolation_matrix

PARTS = 8
"""Of the depth: an eighth of the logits at a time. More would be more launches for a device that is waiting."""


def segmentation_loss_by_parts(recipe: Recipe, coarse: Tensor, organs: Tensor) -> Tensor:
    """`losses.segmentation_loss` of the upsampled logits, [B].

    coarse [B, classes, d, h, w], organs uint8 [B, D, H, W].
    """
    depth, height, width = organs.shape[1:]
    matrices = [
        interpolation_matrix(n, m, coarse) for n, m in zip(coarse.shape[2:], (depth, height, width), strict=True)
    ]
    thickness = -(-depth // PARTS)
    sums: list[Tensor] = []
    for first in range(0, depth, thickness):
        rows = matrices[0][first : first + thickness]
        slab = organs[:, first : first + thickness]
        sums.append(checkpoint(_sums, coarse, rows, *matrices[1:], slab, use_reentrant=False, preserve_rng_state=False))
    cross_entropy, valid, *of_organs = torch.stack(sums).sum(0).unbind(0)
    loss = torch.zeros_like(cross_entropy)
    if recipe.segmentation_loss in ("ce", "ce_dice"):
        loss = loss + cross_entropy / valid.clamp(min=1)
    if recipe.segmentation_loss in ("dice", "ce_dice"):
        overlap, extent = torch.stack(of_organs).chunk(2)
        dice = 1.0 - (2.0 * overlap + recipe.dice_smooth) / (extent + recipe.dice_smooth)
        loss = loss + torch.where(valid > 0, dice.mean(0), 0.0)
    return loss


def _sums(coarse: Tensor, along_depth: Tensor, along_height: Tensor, along_width: Tensor, organs: Tensor) -> Tensor:
    """Return the sums of one slab, [2 + 2 organs, B]: cross-entropy and number of valid voxels; per organ overlap of
    probability and truth, then extent of both."""
    seg_logits = coarse
    for axis, matrix in zip((2, 3, 4), (along_depth, along_height, along_width), strict=True):
        seg_logits = interpolate_axis(seg_logits, axis, matrix)
    log_probability = F.log_softmax(seg_logits, 1)
    valid = organs != IGNORED_ORGAN
    classes = torch.arange(coarse.shape[1], device=organs.device, dtype=organs.dtype)
    truth = (organs[:, None] == classes[:, None, None, None]).to(coarse.dtype)
    cross_entropy = -(log_probability * truth).flatten(1).sum(1)
    probability = log_probability[:, 1:].exp() * valid[:, None]
    overlap = (probability * truth[:, 1:]).flatten(2).sum(2)
    extent = (probability + truth[:, 1:]).flatten(2).sum(2)
    return torch.cat([cross_entropy[None], valid.flatten(1).sum(1).to(coarse.dtype)[None], overlap.T, extent.T])
