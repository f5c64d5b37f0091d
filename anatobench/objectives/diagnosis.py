"""Diagnosis with organ masks beside it: equations 1 to 5 of the AutoSeg paper."""

from __future__ import annotations

from anatobench.objectives.heads import diagnosis_heads
from anatobench.objectives.objective import EVERYTHING, Objective, Phase, Plan
from anatobench.recipes import Recipe
from anatobench.store.batch import DIAGNOSIS
from anatobench.tasks import Task


def diagnosis(recipe: Recipe, task: Task) -> Plan:
    """Return one phase: the classifier's loss, any_injury's, and, with a weight above 0, the segmentation head's."""
    objective = Objective(
        kind="diagnosis",
        reads=(*DIAGNOSIS, "weight") if task.case_weights else DIAGNOSIS,
        terms={
            "classification": 1.0,
            "any_injury": recipe.any_injury_weight,
            "segmentation": recipe.segmentation_weight,
        },
    )
    segmentation = recipe.segmentation_weight > 0
    heads = diagnosis_heads(segmentation)
    phase = Phase(objective, trained=heads if recipe.frozen_backbone else EVERYTHING)
    papers = None if recipe.frozen_backbone or recipe.cases else segmentation
    return Plan(heads, (phase,), judge="auc_macro", papers_segmentation=papers)
