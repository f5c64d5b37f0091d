"""The segmentation loss of organ masks, per case: from full-size logits, plainly.

A voxel without mask contributes 0, and so does a case that has none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN


def segmentation_loss(recipe: Recipe, seg_logits: jax.Array, organs: jax.Array) -> jax.Array:
    """Cross-entropy, soft Dice loss or their sum, [B]; 0 for a case whose voxels are all ignored."""
    valid = organs != IGNORED_ORGAN
    loss = jnp.zeros_like(seg_logits[:, 0, 0, 0, 0])
    if recipe.segmentation_loss in ("ce", "ce_dice"):
        loss = loss + voxel_cross_entropy(seg_logits, organs, valid)
    if recipe.segmentation_loss in ("dice", "ce_dice"):
        loss = loss + dice_loss(seg_logits, organs, valid, recipe.dice_smooth)
    return loss


def voxel_cross_entropy(seg_logits: jax.Array, organs: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over each case's valid voxels, background included, [B]."""
    total = cross_entropy_sum(seg_logits, organs, valid)
    return total / valid.sum((1, 2, 3)).clip(1).astype(total.dtype)


def cross_entropy_sum(seg_logits: jax.Array, organs: jax.Array, valid: jax.Array) -> jax.Array:
    """Over each case's valid voxels, [B]."""
    true_organ = organs[:, None] == jnp.arange(seg_logits.shape[1])[:, None, None, None]
    losses = logsumexp(seg_logits, 1) - jnp.where(true_organ, seg_logits, 0.0).sum(1)
    return jnp.where(valid, losses, 0.0).sum((1, 2, 3))


def dice_loss(seg_logits: jax.Array, organs: jax.Array, valid: jax.Array, smooth: float) -> jax.Array:
    """Mean over organs (background left out) of 1 - (2 |P T| + s) / (|P| + |T| + s) over valid voxels, [B]."""
    loss = dice_of_sums(*dice_sums(seg_logits, organs, valid), smooth)
    return jnp.where(valid.any((1, 2, 3)), loss, 0.0)


def dice_sums(seg_logits: jax.Array, organs: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """|P T| and |P| + |T| of each organ, [B, classes - 1]."""
    classes = seg_logits.shape[1]
    probability = jax.nn.softmax(seg_logits, 1)[:, 1:] * valid[:, None]
    truth = (organs[:, None] == jnp.arange(1, classes)[:, None, None, None]).astype(seg_logits.dtype)
    return (probability * truth).sum((2, 3, 4)), probability.sum((2, 3, 4)) + truth.sum((2, 3, 4))


def dice_of_sums(overlap: jax.Array, extent: jax.Array, smooth: float) -> jax.Array:
    """Mean over organs of 1 - (2 |P T| + s) / (|P| + |T| + s), [B]."""
    return (1.0 - (2.0 * overlap + smooth) / (extent + smooth)).mean(1)
