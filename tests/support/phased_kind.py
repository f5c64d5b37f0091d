"""A kind of supervision with three phases over the built-in losses, for tests of the engines.

The sets that the phases train overlap, a teacher follows in one of them, every phase leaves a head of the model without
a gradient, and two take some of the terms that their losses return.
"""

from __future__ import annotations

from anatobench.objectives.heads import CLASSIFIER, PARTIAL_MASKS, SEGMENTATION
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.recipes import Recipe
from anatobench.tasks import Task

DIAGNOSIS = ("volume", "organs", "targets")


def phased(recipe: Recipe, task: Task) -> Plan:
    """Return labels alone, masks alone with a teacher, and the segmentation head with the backbone's end alone."""
    masks = Objective("partial_masks", ("volume", "organs", "annotated"), {"mask_dice": 1.0})
    return Plan(
        heads=(CLASSIFIER, SEGMENTATION, PARTIAL_MASKS),
        phases=(
            Phase(Objective("diagnosis", DIAGNOSIS, {"classification": 1.0}), trained=("*", "!stem.*")),
            Phase(masks, trained=("*", "!layer1.*"), teacher=0.8),
            Phase(
                Objective("diagnosis", DIAGNOSIS, {"segmentation": 1.0}),
                trained=("layer4.*", SEGMENTATION, CLASSIFIER),
            ),
        ),
        judge="auc_macro",
    )
