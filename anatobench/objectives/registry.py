"""Every kind of supervision, one line each."""

from __future__ import annotations

from anatobench.errors import UsageError
from anatobench.objectives.diagnosis import diagnosis
from anatobench.objectives.objective import Kind, Plan
from anatobench.recipes import Recipe
from anatobench.tasks import Task

KINDS: dict[str, Kind] = {
    "diagnosis": diagnosis,
}


def plan_of(recipe: Recipe, task: Task) -> Plan:
    """Return what the recipe's kind of supervision trains on a task; `UsageError` names the kinds there are."""
    if recipe.objective not in KINDS:
        raise UsageError(f"objective={recipe.objective!r}: choose one of {', '.join(KINDS)}")
    return KINDS[recipe.objective](recipe, task)
