"""The terms of partly annotated masks, per case: a sigmoid per class, and no loss where nothing is annotated.

A class that is not annotated for a case, and a voxel without mask, have no part in either term: their logits are put
to 0 before anything is computed of them, so that the gradient by them is exactly 0, whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from anatobench.objectives.heads import PARTIAL_MASKS
from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN, Task
from jax_impl.step import View


def partial_masks_terms(
    task: Task, recipe: Recipe, view: View, arrays: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """`mask_cross_entropy` and `mask_dice`, each [B], the mean over the classes annotated for the case.

    arrays: organs uint8 [B, D, H, W], annotated int8 [B, classes], 1 where the class is annotated.
    """
    logits = view.upsampled(PARTIAL_MASKS)
    assert logits is not None, "the plan asks for the head"
    organs, annotated = arrays["organs"], arrays["annotated"] == 1
    seen = annotated[:, :, None, None, None] & (organs != IGNORED_ORGAN)[:, None]
    logits = jnp.where(seen, logits, 0.0)
    truth = class_masks(organs, task.organ_sets) & seen
    has_mask = (organs != IGNORED_ORGAN).any((1, 2, 3))
    counted = annotated & has_mask[:, None]
    return {
        "mask_cross_entropy": mean_over(counted, mask_cross_entropy(logits, truth, seen)),
        "mask_dice": mean_over(counted, mask_dice_loss(logits, truth, seen, recipe.dice_smooth)),
    }


def class_masks(organs: jax.Array, organ_sets: tuple[tuple[int, ...], ...]) -> jax.Array:
    """Return which voxels are of each class, bool [B, classes, D, H, W]: a class is a set of organ indices."""
    masks = []
    for first, *rest in organ_sets:
        mask = organs == first
        for organ in rest:
            mask = mask | (organs == organ)
        masks.append(mask)
    return jnp.stack(masks, 1)


def mask_cross_entropy(logits: jax.Array, truth: jax.Array, seen: jax.Array) -> jax.Array:
    """Binary cross-entropy, the mean over the voxels seen, [B, classes]."""
    losses = -jnp.where(truth, log_sigmoid(logits), log_sigmoid(-logits))
    total = jnp.where(seen, losses, 0.0).sum((2, 3, 4))
    return total / seen.sum((2, 3, 4)).clip(1).astype(total.dtype)


def mask_dice_loss(logits: jax.Array, truth: jax.Array, seen: jax.Array, smooth: float) -> jax.Array:
    """1 - (2 |P T| + s) / (|P| + |T| + s) over the voxels seen of a case's volume, [B, classes]."""
    probability = jnp.where(seen, jax.nn.sigmoid(logits), 0.0)
    overlap = jnp.where(truth, probability, 0.0).sum((2, 3, 4))
    extent = probability.sum((2, 3, 4)) + truth.sum((2, 3, 4)).astype(logits.dtype)
    return 1.0 - (2.0 * overlap + smooth) / (extent + smooth)


def mean_over(counted: jax.Array, losses: jax.Array) -> jax.Array:
    """Return the mean over the classes that count for each case, [B]; 0 where none does."""
    total = jnp.where(counted, losses, 0.0).sum(1)
    return total / counted.sum(1).clip(1).astype(total.dtype)
