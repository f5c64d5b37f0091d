"""Where a model was most sure and wrong: what a reader of a report should look at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anatobench.evaluation.organ_dice import OrganDice, lowest_dice
from anatobench.evaluation.predictions import Predictions, class_labels, class_probabilities, healthy_columns
from anatobench.evaluation.thresholds import DEFAULT_THRESHOLD

Chosen = Mapping[str, float | None]
"""Thresholds by class, as an evaluation holds them; where one lacks or is None, `DEFAULT_THRESHOLD` stands for it."""

SHOWN_WRONG_CASES = 6
"""Scans with wrong predictions that are shown with slices."""
SHOWN_LOW_DICE_CASES = 2


@dataclass(frozen=True)
class WrongPrediction:
    """One finding of one scan."""

    case_id: str
    finding: str
    label: int
    """0 or 1."""
    probability: float
    threshold: float
    """From which on it is called positive."""

    @property
    def error(self) -> float:
        """How far the probability is beyond the threshold, on the wrong side."""
        return abs(self.probability - self.threshold)


def most_wrong(predictions: Predictions, thresholds: Chosen) -> list[WrongPrediction]:
    """Per class the one scan whose probability is furthest on the wrong side of the class's threshold, if any is; the
    worst first.

    Scans are judged one by one, since one scan can be looked at. A group's healthy grade is left out: its faults
    are those of the other grades, seen from behind.
    """
    task = predictions.task
    probabilities, labels = class_probabilities(task, predictions.logits), class_labels(task, predictions.targets)
    found = []
    for column in np.flatnonzero(~healthy_columns(task)):
        name, of_class = task.class_names[column], probabilities[:, column]
        chosen = thresholds.get(name)
        threshold = DEFAULT_THRESHOLD if chosen is None else chosen
        wrong = np.flatnonzero(np.where(of_class >= threshold, labels[:, column] == 0, labels[:, column] == 1))
        if len(wrong):
            row = int(wrong[np.argmax(np.abs(of_class[wrong] - threshold))])
            found.append(
                WrongPrediction(
                    predictions.case_ids[row], name, int(labels[row, column]), float(of_class[row]), threshold
                )
            )
    return sorted(found, key=lambda wrong: -wrong.error)


def worst_case_ids(predictions: Predictions | None, thresholds: Chosen, dice: OrganDice | None) -> list[str]:
    """Return the scans that a report shows: those that are most surely wrong, then those with the lowest organ Dice."""
    ranked = [] if predictions is None else most_wrong(predictions, thresholds)
    wrong = list(dict.fromkeys(wrong.case_id for wrong in ranked))[:SHOWN_WRONG_CASES]
    low = [] if dice is None else [case_id for case_id, _ in lowest_dice(dice, SHOWN_LOW_DICE_CASES)]
    return list(dict.fromkeys([*wrong, *low]))
