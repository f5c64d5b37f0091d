"""From probabilities to calls: the thresholds of a run's own evaluation, or 0.5 with a word about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.evaluation.evaluation_file import read_evaluation
from anatobench.tasks import Task
from anatobench.training.run_folder import evaluation_file

DEFAULT_THRESHOLD = 0.5
FIXED = "fixed"
"""The rule's name where no evaluation chose."""
EVALUATED_SPLITS = ("test", "validation")
"""Whose evaluation is looked for, in this order."""


@dataclass(frozen=True)
class Thresholds:
    """A probability at or above its class's threshold is called positive."""

    values: Mapping[str, float]
    """By the task's class names."""
    rule: str
    """One of `metrics.THRESHOLD_RULES`, or `FIXED`."""
    source: str
    """A sentence that says where they come from."""

    def findings(self, probabilities: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """`probability`, `threshold` and `call` ("positive" or "negative") per class."""
        return {
            name: {
                "probability": probability,
                "threshold": self.values[name],
                "call": "positive" if probability >= self.values[name] else "negative",
            }
            for name, probability in probabilities.items()
        }


def find_thresholds(weights: Path, task: Task, step: int | None) -> Thresholds:
    """Return those of the evaluation in a run's folder if it is of this checkpoint (`step`), else 0.5 for every class.

    A class whose threshold the evaluation could not choose has 0.5, too.
    """
    for split in EVALUATED_SPLITS:
        file = evaluation_file(split)
        if not (weights / file).is_file():
            continue
        found = read_evaluation(weights, split, task, ("thresholds", "threshold_rule", "threshold_split", "step"))
        if found["step"] != step:
            return _fixed(task, f"{file} is of step {found['step']}, these weights of step {step}: evaluate again")
        chosen = {name: found["thresholds"][name] for name in task.class_names}
        values = {name: DEFAULT_THRESHOLD if value is None else float(value) for name, value in chosen.items()}
        undefined = [name for name, value in chosen.items() if value is None]
        source = f"chosen by {found['threshold_rule']} on the {found['threshold_split']} split ({file})"
        if undefined:
            source += f"; {DEFAULT_THRESHOLD} where that split had one label value only: {', '.join(undefined)}"
        return Thresholds(values, found["threshold_rule"], source)
    return _fixed(task, "no evaluation of these weights is at hand")


def _fixed(task: Task, reason: str) -> Thresholds:
    return Thresholds(
        dict.fromkeys(task.class_names, DEFAULT_THRESHOLD),
        FIXED,
        f"{DEFAULT_THRESHOLD} for every class, since {reason}",
    )
