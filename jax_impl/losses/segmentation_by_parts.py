"""`segmentation.segmentation_loss` from the head's coarse logits, upsampled and summed up one slab of planes at a time.

A slab of output planes needs a few rows of the matrix that upsamples along depth, and the loss is made of sums over
each case's voxels. So a loop adds them up slab by slab and forgets the slab, and the backward pass computes it again:
the float32 logits of the whole batch (a gibibyte for 10 chests at full size) never exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN
from jax_impl.layers.upsampling import interpolation_matrix, upsample_by
from jax_impl.losses.segmentation import cross_entropy_sum, dice_of_sums, dice_sums

PLANES = 16
"""Of output depth in a slab at most: a sixth of a chest's logits, and six rounds of the loop."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Over the voxels of a case that have a mask."""

    voxels: jax.Array
    """[B], how many there are"""
    cross_entropy: jax.Array
    """[B]"""
    overlap: jax.Array
    """[B, classes - 1], as `losses.dice_sums` gives them"""
    extent: jax.Array
    """[B, classes - 1], as well"""


def segmentation_loss_by_parts(recipe: Recipe, coarse: jax.Array, organs: jax.Array) -> jax.Array:
    """Cross-entropy, soft Dice loss or their sum, [B]; 0 for a case whose voxels are all ignored.

    coarse [B, classes, d, h, w], organs uint8 [B, D, H, W].
    """
    batch, classes, *size = coarse.shape
    rows = _rows_of_slabs(size[0], organs.shape[1])
    slabs, planes, _ = rows.shape
    organs = jnp.pad(
        organs,
        ((0, 0), (0, slabs * planes - organs.shape[1]), (0, 0), (0, 0)),
        constant_values=IGNORED_ORGAN,
    )
    in_plane = [
        jnp.asarray(interpolation_matrix(source, target), coarse.dtype)
        for source, target in zip(size[1:], organs.shape[2:], strict=True)
    ]

    @jax.checkpoint
    def sums_of_slab(coarse: jax.Array, first: jax.Array, rows: jax.Array) -> Sums:
        seen = lax.dynamic_slice_in_dim(organs, first, planes, axis=1)
        return _sums(recipe, upsample_by(coarse, rows, *in_plane), seen)

    def add_slab(total: Sums, slab: tuple[jax.Array, jax.Array]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, total, sums_of_slab(coarse, *slab)), None

    per_case, per_organ = jnp.zeros(batch, coarse.dtype), jnp.zeros((batch, classes - 1), coarse.dtype)
    firsts = jnp.arange(slabs, dtype=jnp.int32) * planes
    nothing = Sums(per_case, per_case, per_organ, per_organ)
    total, _ = lax.scan(add_slab, nothing, (firsts, jnp.asarray(rows, coarse.dtype)))
    return _loss(recipe, total)


def _rows_of_slabs(source: int, target: int) -> np.ndarray:
    """float64 [slabs, planes, source]: the depth's matrix, with rows of zeros where the last slab goes beyond it."""
    planes = -(-target // -(-target // PLANES))
    slabs = -(-target // planes)
    matrix = np.pad(interpolation_matrix(source, target), ((0, slabs * planes - target), (0, 0)))
    return matrix.reshape(slabs, planes, source)


def _sums(recipe: Recipe, seg_logits: jax.Array, organs: jax.Array) -> Sums:
    """Return the sums of one slab; zeros for what the recipe's loss does not need."""
    valid = organs != IGNORED_ORGAN
    cross_entropy = jnp.zeros_like(seg_logits[:, 0, 0, 0, 0])
    overlap = extent = jnp.zeros_like(seg_logits[:, 1:, 0, 0, 0])
    if recipe.segmentation_loss in ("ce", "ce_dice"):
        cross_entropy = cross_entropy_sum(seg_logits, organs, valid)
    if recipe.segmentation_loss in ("dice", "ce_dice"):
        overlap, extent = dice_sums(seg_logits, organs, valid)
    return Sums(valid.sum((1, 2, 3)).astype(seg_logits.dtype), cross_entropy, overlap, extent)


def _loss(recipe: Recipe, total: Sums) -> jax.Array:
    loss = total.cross_entropy / total.voxels.clip(1)
    if recipe.segmentation_loss in ("dice", "ce_dice"):
        loss = loss + jnp.where(total.voxels > 0, dice_of_sums(total.overlap, total.extent, recipe.dice_smooth), 0.0)
    return loss
