"""From probabilities to calls: the thresholds of a run's own evaluation, or 0.5 with a word about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json
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
        path = weights / evaluation_file(split)
        if not path.is_file():
            continue
        try:
            figures = parse_json(path.read_text(encoding="utf-8"))
            chosen = {name: figures["thresholds"][name] for name in task.class_names}
            rule, chosen_on, of_step = str(figures["threshold_rule"]), figures["threshold_split"], figures["step"]
            values = {name: DEFAULT_THRESHOLD if value is None else float(value) for name, value in chosen.items()}
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            raise AnatoBenchError(f"{path}: not what evaluate writes: run `anatobench evaluate` again") from None
        if of_step != step:
            return _fixed(task, f"{path.name} is of step {of_step}, these weights of step {step}: evaluate again")
        undefined = [name for name, value in chosen.items() if value is None]
        source = f"chosen by {rule} on the {chosen_on} split ({path.name})"
        if undefined:
            source += f"; {DEFAULT_THRESHOLD} where that split had one label value only: {', '.join(undefined)}"
        return Thresholds(values, rule, source)
    return _fixed(task, "no evaluation of these weights is at hand")


def _fixed(task: Task, reason: str) -> Thresholds:
    return Thresholds(
        dict.fromkeys(task.class_names, DEFAULT_THRESHOLD),
        FIXED,
        f"{DEFAULT_THRESHOLD} for every class, since {reason}",
    )
