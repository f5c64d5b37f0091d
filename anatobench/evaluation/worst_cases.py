"""Where a model was most sure and wrong: what a reader of a report should look at first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatobench.evaluation.organ_dice import OrganDice, lowest_dice
from anatobench.evaluation.predictions import Predictions, class_labels, class_probabilities, healthy_columns

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

    @property
    def error(self) -> float:
        """How far the probability is from the label; above 0.5 for what is listed here."""
        return abs(self.label - self.probability)


def most_wrong(predictions: Predictions) -> list[WrongPrediction]:
    """Per class the one scan whose probability is furthest from its label, if it is on the wrong side of 0.5; the
    worst first.

    Scans are judged one by one, since one scan can be looked at. A group's healthy grade is left out: its faults
    are those of the other grades, seen from behind.
    """
    task = predictions.task
    probabilities, labels = class_probabilities(task, predictions.logits), class_labels(task, predictions.targets)
    found = []
    for column in np.flatnonzero(~healthy_columns(task)):
        errors = np.nan_to_num(np.abs(labels[:, column] - probabilities[:, column]), nan=-1.0)
        row = int(np.argmax(errors)) if len(errors) else -1
        if row >= 0 and errors[row] > 0.5:
            found.append(
                WrongPrediction(
                    predictions.case_ids[row],
                    task.class_names[column],
                    int(labels[row, column]),
                    float(probabilities[row, column]),
                )
            )
    return sorted(found, key=lambda wrong: -wrong.error)


def worst_case_ids(predictions: Predictions | None, dice: OrganDice | None) -> list[str]:
    """Return the scans that a report shows: those that are most surely wrong, then those with the lowest organ Dice."""
    ranked = [] if predictions is None else most_wrong(predictions)
    wrong = list(dict.fromkeys(wrong.case_id for wrong in ranked))[:SHOWN_WRONG_CASES]
    low = [] if dice is None else [case_id for case_id, _ in lowest_dice(dice, SHOWN_LOW_DICE_CASES)]
    return list(dict.fromkeys([*wrong, *low]))
