"""Masks of which each case has those that its source drew: one sigmoid per class, trained where it is annotated.

Pre-training as in SuPreM (ICLR 2024), from its paper alone: binary cross-entropy and soft Dice over the classes that
are annotated for a case. Its released code takes Dice slice by slice, which gives nothing where an organ is not; here
it is that of the case's volume.
"""

from __future__ import annotations

from anatobench.errors import UsageError
from anatobench.objectives.heads import CLASSIFIER, PARTIAL_MASKS
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.recipes import ALL_ORGANS, Recipe
from anatobench.tasks import Task


def partial_masks(recipe: Recipe, task: Task) -> Plan:
    """Return one phase that trains the backbone and the head of masks, and leaves the classifier as it is."""
    if recipe.supervising_organs != ALL_ORGANS:
        raise UsageError(
            f"supervising_organs={recipe.supervising_organs!r}: objective partial_masks would take the others for "
            "absent: leave them out of the store's annotated classes instead"
        )
    objective = Objective(
        kind="partial_masks",
        reads=("volume", "organs", "annotated"),
        terms={"mask_cross_entropy": 1.0, "mask_dice": 1.0},
    )
    # No gradient reaches the classifier, but weight decay would.
    trained = (PARTIAL_MASKS,) if recipe.frozen_backbone else ("*", f"!{CLASSIFIER}")
    return Plan((CLASSIFIER, PARTIAL_MASKS), (Phase(objective, trained=trained),), judge="mask_dice")
