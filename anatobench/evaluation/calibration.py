"""Whether probabilities mean what they say: the Brier score and the points of a reliability plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from anatobench.evaluation.metrics import BOOTSTRAP_REPLICATES, by_name, intervals_by_name, patient_draws
from anatobench.evaluation.predictions import ClassPredictions

BINS = 10
_NORMAL_QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class Reliability:
    """Cases of similar probability, a bin each, from the lowest to the highest; all arrays are float64 [bins]."""

    predicted: np.ndarray
    """Mean probability."""
    observed: np.ndarray
    """Share of positives."""
    low: np.ndarray
    high: np.ndarray
    """The share's 95 % interval (Wilson)."""
    cases: np.ndarray


def brier(predictions: ClassPredictions, replicates: int = BOOTSTRAP_REPLICATES, seed: int = 0) -> dict[str, Any]:
    """Return the mean squared difference of probability and label (Brier 1950), per class and macro.

    0 is perfect; `by_prevalence` is what somebody gets who gives every case the class's share of positives and knows
    nothing else. Unknown labels are left out; None for a class without a known one.
    """
    names, labels = predictions.class_names, predictions.labels
    known = ~np.isnan(labels)
    squares = np.where(known, (predictions.probabilities - np.where(known, labels, 0.0)) ** 2, 0.0)
    draws, patient_of_row = patient_draws(predictions.patient_ids, replicates, seed)
    sums, counts = (np.zeros((draws.shape[1], len(names))) for _ in range(2))
    np.add.at(sums, patient_of_row, squares)
    np.add.at(counts, patient_of_row, known.astype(np.float64))
    values = _ratio(sums.sum(axis=0), counts.sum(axis=0))
    share = _ratio(np.where(known, labels, 0.0).sum(axis=0), counts.sum(axis=0))
    return {
        **by_name(names, values),
        "by_prevalence": by_name(names, share * (1 - share)),
        "ci95": intervals_by_name(names, values, _ratio(draws @ sums, draws @ counts)),
    }


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Part the cases by probability into `bins` of equal number, as near as it goes, ties together.

    probabilities [N], labels [N] of 0, 1 and NaN, which is left out. Fewer bins where few cases or many ties are.
    """
    known = ~np.isnan(labels)
    order = np.argsort(probabilities[known], kind="stable")
    scores, truth = probabilities[known][order], labels[known][order]
    edges = np.linspace(0, len(scores), min(bins, len(scores)) + 1).round().astype(int)[:-1]
    starts = np.unique(np.searchsorted(scores, scores[edges]))  # the first of equal scores begins a bin
    cases = np.diff([*starts, len(scores)]).astype(np.float64)
    if not len(cases):
        nothing = np.zeros(0)
        return Reliability(nothing, nothing, nothing, nothing, nothing)
    observed = np.add.reduceat(truth, starts) / cases
    low, high = _wilson(observed, cases)
    return Reliability(np.add.reduceat(scores, starts) / cases, observed, low, high, cases)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0))


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the score interval (Wilson 1927) of shares [bins] of counts [bins]."""
    square = _NORMAL_QUANTILE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_QUANTILE / (1 + square / count) * np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return middle - half, middle + half
