"""Losses of the tasks, per case; the engine takes the mean over the batch.

Equations 1 to 5 of the AutoSeg paper with the choices named in `anatobench/recipes.py`: a sample's weight multiplies
its loss, and nothing is divided by the sum of weights. A missing target and a voxel without mask contribute 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, logsumexp

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, LabelGroup, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CaseLosses:
    """Each of shape [B]."""

    total: jax.Array
    classification: jax.Array
    any_injury: jax.Array
    segmentation: jax.Array


def case_losses(
    task: Task,
    recipe: Recipe,
    logits: jax.Array,
    targets: jax.Array,
    segmentation: jax.Array | None,
) -> CaseLosses:
    """Every term of the loss and their weighted sum.

    logits [B, logits], targets int8 [B, groups], segmentation the loss of the branch [B], or None without it.
    """
    classification = classification_loss(task, logits, targets)
    any_injury = any_injury_loss(task, logits, targets)
    if segmentation is None:
        segmentation = jnp.zeros_like(classification)
    total = classification + recipe.any_injury_weight * any_injury + recipe.segmentation_weight * segmentation
    return CaseLosses(total, classification, any_injury, segmentation)


def classification_loss(task: Task, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the binary groups plus mean over the graded groups, [B]."""
    binary: list[jax.Array] = []
    graded: list[jax.Array] = []
    for index, (group, columns) in enumerate(zip(task.groups, task.logit_slices, strict=True)):
        (binary if group.binary else graded).append(group_loss(group, logits[:, columns], targets[:, index]))
    terms = [jnp.stack(losses, 1).mean(1) for losses in (binary, graded) if losses]
    return jnp.stack(terms).sum(0)


def group_loss(group: LabelGroup, logits: jax.Array, grade: jax.Array) -> jax.Array:
    """Weighted binary cross-entropy (one logit) or cross-entropy (one logit per grade), [B]."""
    known = grade != MISSING_TARGET
    if group.binary:
        loss = -jnp.where(grade > 0, log_sigmoid(logits[:, 0]), log_sigmoid(-logits[:, 0]))
    else:
        true_grade = grade[:, None] == jnp.arange(len(group.grades))
        loss = logsumexp(logits, 1) - jnp.where(true_grade, logits, 0.0).sum(1)
    return jnp.where(known, sample_weight(group, grade, logits.dtype) * loss, 0.0)


def sample_weight(group: LabelGroup, grade: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The weight of each case's true grade, [B]."""
    return jnp.stack(
        [(grade == index).astype(dtype) * weight for index, weight in enumerate(group.sample_weights)]
    ).sum(0)


def any_injury_loss(task: Task, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Weighted binary cross-entropy of p = 1 - prod(p_healthy) against "any group injured", [B].

    A case counts as missing if it has no known injury and some group is unknown. log p is never taken of a
    difference: p is the sum over groups of "this group is the first injured one", prod(p_healthy of those before) *
    p_injured, so that log p is a logsumexp of sums of log-sigmoids, exact and with bounded gradients at any logits.
    """
    if task.any_injury_sample_weights is None:
        return jnp.zeros_like(logits[:, 0])
    injured = jnp.stack(
        [
            injury_logit(group, logits[:, columns])
            for group, columns in zip(task.groups, task.logit_slices, strict=True)
        ],
        1,
    )
    log_healthy = log_sigmoid(-injured)
    log_all_before_healthy = log_healthy.cumsum(1) - log_healthy
    log_none = log_healthy.sum(1)
    log_any = logsumexp(log_all_before_healthy + log_sigmoid(injured), 1)
    truth = (targets > 0).any(1)
    known = truth | (targets != MISSING_TARGET).all(1)
    weight_none, weight_any = task.any_injury_sample_weights
    loss = jnp.where(truth, -weight_any * log_any, -weight_none * log_none)
    return jnp.where(known, loss, 0.0)


def injury_logit(group: LabelGroup, logits: jax.Array) -> jax.Array:
    """The logit of "not grade 0", [B]: p_healthy = sigmoid(-injury_logit) for sigmoid and softmax groups alike."""
    if group.binary:
        return logits[:, 0]
    return logsumexp(logits[:, 1:], 1) - logits[:, 0]


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
