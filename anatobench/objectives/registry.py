"""Every kind of supervision, one line each."""

from __future__ import annotations

from anatobench.errors import UsageError
from anatobench.objectives.diagnosis import diagnosis
from anatobench.objectives.heads import HEADS
from anatobench.objectives.objective import Kind, Plan
from anatobench.objectives.partial_masks import partial_masks
from anatobench.recipes import Recipe
from anatobench.store.batches import DENSE, TABLES
from anatobench.tasks import Task

KINDS: dict[str, Kind] = {
    "diagnosis": diagnosis,
    "partial_masks": partial_masks,
}


def plan_of(recipe: Recipe, task: Task) -> Plan:
    """Return what the recipe's kind of supervision trains on a task; `UsageError` if there is no such kind, or if its
    plan names a head or an array that there is not."""
    if recipe.objective not in KINDS:
        raise UsageError(f"objective={recipe.objective!r}: choose one of {', '.join(KINDS)}")
    plan = KINDS[recipe.objective](recipe, task)
    _check(recipe.objective, plan)
    return plan


def _check(name: str, plan: Plan) -> None:
    """Raise `UsageError` if the plan names what nobody has registered."""
    if not plan.phases:
        raise UsageError(f"objective={name}: its plan has no phase: give it one")
    for head in plan.heads:
        if head not in HEADS:
            raise UsageError(
                f"objective={name}: no head is called {head!r}: add a line to `HEADS` of "
                f"anatobench/objectives/heads.py, or choose of {', '.join(HEADS)}"
            )
    for array in (array for phase in plan.phases for array in phase.objective.reads):
        if array not in (*DENSE, *TABLES):
            raise UsageError(
                f"objective={name}: batches have no array {array!r}: add a line to `TABLES` of "
                f"anatobench/store/batches.py, or choose of {', '.join((*DENSE, *TABLES))}"
            )
