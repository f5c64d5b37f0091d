"""AUC and the threshold metrics of the AutoSeg paper, per class and macro, with bootstrap confidence intervals.

The paper reports sensitivity, specificity, precision and F1 at "the ROC-based optimal threshold", chosen on the
evaluated split itself; its F1 can only be scikit-learn's `f1_score(average="weighted")` over the two label values, its
precision that of the positive value (CT-CLIP's protocol). The figures at a threshold depend on the cases it calls, not
on where it lies between two scores. Labels that are unknown are left out per class.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anatobench.errors import UsageError
from anatobench.evaluation.predictions import ClassPredictions

THRESHOLD_RULES = ("closest_to_corner", "youden")
"""The ROC point nearest to (FPR 0, TPR 1), as CT-CLIP's code takes it, or the one with the highest TPR - FPR."""
RATES = ("sensitivity", "specificity", "precision", "f1_weighted")
BOOTSTRAP_REPLICATES = 1000
_CHUNK_ELEMENTS = 4_000_000
"""Bootstrap weights held at once: 32 MB of float64."""


def weighted_roc_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of scores [N] against 0/1 labels [N] for each row of case weights [B, N],
    float64 [B]; NaN where the positives or negatives weigh nothing.

    The weighted Mann-Whitney statistic: every pair of a positive and a negative counts 1 if the positive scores
    higher and 1/2 on a tie. Scores are sorted once, so a bootstrap of B replicates costs B sums, not B sorts.
    """
    order = np.argsort(scores, kind="stable")
    ordered_scores, positive = scores[order], labels[order] == 1
    if len(scores) == 0:
        return np.full(len(weights), np.nan)
    starts = np.flatnonzero(np.concatenate([[True], ordered_scores[1:] != ordered_scores[:-1]]))
    ordered_weights = weights[:, order]
    positives = np.add.reduceat(ordered_weights * positive, starts, axis=1)
    negatives = np.add.reduceat(ordered_weights * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positives * (below + negatives / 2)).sum(axis=1) / pairs)


def best_threshold(scores: np.ndarray, labels: np.ndarray, rule: str) -> float:
    """Return the probability t for which calling `score >= t` positive is best by the rule; the highest such t on a
    tie.

    scores [cases], labels [cases], 0 or 1. `rule` is one of `THRESHOLD_RULES`, else `UsageError`.
    Every distinct score is tried, so the whole ROC curve, save its corner (0, 0): that one is never better than
    (1, 1) by either rule and is no finite score. t lies halfway between the last score that is called positive and
    the one below it (0 below the lowest): the same cases are called as from that score on, also by somebody who
    computes the probabilities to another last digit. NaN if a label value is absent.
    """
    if rule not in THRESHOLD_RULES:
        raise UsageError(f"threshold rule {rule!r}: choose one of {', '.join(THRESHOLD_RULES)}")
    positive_count = int((labels == 1).sum())
    negative_count = len(labels) - positive_count
    if positive_count == 0 or negative_count == 0:
        return float("nan")
    ordered, last_of_tie, true_positives, false_positives = _called_from_each_score(scores, labels)
    # Counts rather than rates are subtracted, so that ROC points that are equally good compare as equal.
    missed = (positive_count - true_positives).astype(np.float64)
    if rule == "youden":
        cost = missed * negative_count + false_positives * positive_count
    else:
        cost = (missed * negative_count) ** 2 + (false_positives * positive_count) ** 2
    last = int(last_of_tie[np.argmin(cost)])
    lowest_called = float(ordered[last])
    below = float(ordered[last + 1]) if last + 1 < len(ordered) else min(0.0, lowest_called)
    between = below + (lowest_called - below) / 2
    return between if between > below else lowest_called  # neighbours in float64 have nothing between them


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates from (0, 0) to (1, 1), a point per distinct score.

    scores [cases], labels [cases], 0 or 1; both label values must occur.
    """
    _, _, true_positives, false_positives = _called_from_each_score(scores, labels)
    corner = np.zeros(1)
    return (
        np.concatenate([corner, false_positives / false_positives[-1]]),
        np.concatenate([corner, true_positives / true_positives[-1]]),
    )


def _called_from_each_score(
    scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores from the highest down, where each distinct one is last, and how many positives and negatives
    are called from there on."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    true_positives = np.cumsum(labels[order] == 1)[last_of_tie]
    return ordered, last_of_tie, true_positives, last_of_tie + 1 - true_positives


def evaluate(
    predictions: ClassPredictions,
    rule: str = "closest_to_corner",
    threshold_predictions: ClassPredictions | None = None,
    replicates: int = BOOTSTRAP_REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all metrics as plain JSON values: `{metric: {"macro": x, "<class>": x or None}}` and what they rest on.

    Thresholds come from `threshold_predictions` where given, else from the predictions themselves, as in the paper.
    A class whose known labels are all the same has no AUC: it is listed in `undefined` with the reason, and
    `macro_classes` says over how many classes each macro mean is taken. `ci95` are percentile intervals over
    replicates that draw patients with replacement, at the thresholds of the whole split; a replicate in which a class
    lost one of its label values counts only for the others.
    """
    names, labels, scores = predictions.class_names, predictions.labels, predictions.probabilities
    source = threshold_predictions or predictions
    thresholds = np.array([_class_threshold(source, column, rule) for column in range(len(names))])
    undefined = undefined_classes(predictions)
    if threshold_predictions is not None:
        for name, column in zip(names, threshold_predictions.labels.T, strict=True):
            if name not in undefined and (reason := _undefined(column)):
                undefined[name] = f"no threshold: {reason} in the split that chooses it"
    draws, patient_of_row = patient_draws(predictions.patient_ids, replicates, seed)
    patients = draws.shape[1]
    counts = _confusion_per_patient(scores, labels, thresholds, patient_of_row, patients)
    values = {"auc": _auc_per_class(scores, labels, np.ones((1, len(scores))))[0], **_rates(*counts.sum(axis=1))}
    values = {metric: np.where(_is_defined(labels), value, np.nan) for metric, value in values.items()}
    resampled = {"auc": resampled_auc(predictions, draws, patient_of_row), **_rates(*(draws @ counts))}
    return {
        **{metric: by_name(names, values[metric]) for metric in ("auc", *RATES)},
        "threshold_rule": rule,
        "thresholds": {name: _json(value) for name, value in zip(names, thresholds, strict=True)},
        "ci95": {metric: intervals_by_name(names, values[metric], resampled[metric]) for metric in ("auc", *RATES)},
        "undefined": undefined,
        "macro_classes": {metric: int(np.isfinite(values[metric]).sum()) for metric in ("auc", *RATES)},
        "classes": len(names),
        "rows": len(scores),
        "patients": patients,
        "positives": {name: int((column == 1).sum()) for name, column in zip(names, labels.T, strict=True)},
        "negatives": {name: int((column == 0).sum()) for name, column in zip(names, labels.T, strict=True)},
        "positive_patients": _patients_with(1, predictions),
        "negative_patients": _patients_with(0, predictions),
        "bootstrap": {"replicates": replicates, "seed": seed, "unit": "patient"},
    }


def _patients_with(label: int, predictions: ClassPredictions) -> dict[str, int]:
    """Return by class how many patients have a row with that label."""
    patients = np.array(predictions.patient_ids)
    columns = zip(predictions.class_names, predictions.labels.T, strict=True)
    return {name: len(np.unique(patients[column == label])) for name, column in columns}


def auc_per_class(predictions: ClassPredictions) -> tuple[float | None, dict[str, float | None]]:
    """Macro AUC and AUC per class, None where undefined: what training watches."""
    named = by_name(predictions.class_names, auc_values(predictions))
    return named.pop("macro"), named


def auc_values(predictions: ClassPredictions) -> np.ndarray:
    """AUC per class, float64 [classes], NaN where undefined."""
    rows = np.ones((1, len(predictions.labels)))
    return np.asarray(_auc_per_class(predictions.probabilities, predictions.labels, rows)[0])


def patient_draws(patient_ids: tuple[str, ...], replicates: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw patients with replacement: how often each in every replicate, [replicates, patients], and the patient of
    each row, [N]."""
    patients, patient_of_row = np.unique(patient_ids, return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    return np.random.default_rng(seed).multinomial(len(patients), share, size=replicates), patient_of_row


def resampled_auc(predictions: ClassPredictions, draws: np.ndarray, patient_of_row: np.ndarray) -> np.ndarray:
    """AUC per class in every replicate of `patient_draws`, float64 [replicates, classes]."""
    scores, labels = predictions.probabilities, predictions.labels
    size = max(1, _CHUNK_ELEMENTS // max(1, len(scores)))
    chunks = [draws[start : start + size] for start in range(0, len(draws), size)]
    parts = [_auc_per_class(scores, labels, chunk[:, patient_of_row].astype(np.float64)) for chunk in chunks]
    return np.concatenate(parts)


def by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    """Values [classes] by class, and under `macro` their mean; None for NaN."""
    named = {name: _json(value) for name, value in zip(names, values, strict=True)}
    return {"macro": _json(float(mean_of_known(values))), **named}


def intervals_by_name(
    names: tuple[str, ...], values: np.ndarray, resampled: np.ndarray
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of each class and the macro mean, from values [classes] and [replicates, classes]."""
    resampled = np.where(np.isfinite(values), resampled, np.nan)
    columns = {"macro": mean_of_known(resampled), **dict(zip(names, resampled.T, strict=True))}
    intervals: dict[str, list[float] | None] = {}
    for name, column in columns.items():
        known = column[~np.isnan(column)]
        intervals[name] = [float(x) for x in np.quantile(known, (0.025, 0.975))] if len(known) else None
    return intervals


def _is_defined(labels: np.ndarray) -> np.ndarray:
    """Return which classes have both label values: bool [classes]."""
    both: np.ndarray = np.any(labels == 0, axis=0) & np.any(labels == 1, axis=0)
    return both


def undefined_classes(predictions: ClassPredictions) -> dict[str, str]:
    """Return why, by name, the classes without an AUC have none."""
    columns = zip(predictions.class_names, predictions.labels.T, strict=True)
    return {name: reason for name, labels in columns if (reason := _undefined(labels))}


def _undefined(labels: np.ndarray) -> str | None:
    """Return why a class with labels [N] has no AUC; None if it has one."""
    if np.all(np.isnan(labels)):
        return "no known label"
    if not np.any(labels == 1):
        return "no positive"
    return None if np.any(labels == 0) else "no negative"


def _class_threshold(predictions: ClassPredictions, column: int, rule: str) -> float:
    labels = predictions.labels[:, column]
    known = ~np.isnan(labels)
    return best_threshold(predictions.probabilities[known, column], labels[known], rule)


def _confusion_per_patient(
    scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, patient_of_row: np.ndarray, patient_count: int
) -> np.ndarray:
    """Count true positives, false positives, true negatives, false negatives: float64 [4, patients, classes]."""
    called, undecided = scores >= thresholds, np.isnan(thresholds)
    outcomes = np.stack(
        [called & (labels == 1), called & (labels == 0), ~called & (labels == 0), ~called & (labels == 1)]
    )
    counts = np.zeros((4, patient_count, labels.shape[1]))
    for count, outcome in zip(counts, outcomes, strict=True):
        np.add.at(count, patient_of_row, outcome.astype(np.float64))
    counts[:, :, undecided] = np.nan
    return counts


def _rates(tp: np.ndarray, fp: np.ndarray, tn: np.ndarray, fn: np.ndarray) -> dict[str, np.ndarray]:
    """`RATES` from confusion counts of any shape; NaN without positives (sensitivity) or negatives (specificity).

    As in scikit-learn, precision and F1 are 0 where nothing is called or hit.
    """

    def ratio(part: np.ndarray, whole: np.ndarray, empty: float) -> np.ndarray:
        filled = np.divide(part, whole, out=np.full_like(part, empty), where=whole != 0)
        return np.where(np.isnan(whole), np.nan, filled)

    positives, negatives = tp + fn, tn + fp
    f1_positive = ratio(2 * tp, 2 * tp + fp + fn, 0.0)
    f1_negative = ratio(2 * tn, 2 * tn + fp + fn, 0.0)
    return {
        "sensitivity": ratio(tp, positives, np.nan),
        "specificity": ratio(tn, negatives, np.nan),
        "precision": ratio(tp, tp + fp, 0.0),
        "f1_weighted": ratio(positives * f1_positive + negatives * f1_negative, positives + negatives, np.nan),
    }


def _auc_per_class(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 [B, classes] for row weights [B, N]."""
    result = np.full((len(weights), labels.shape[1]), np.nan)
    for column in np.flatnonzero(_is_defined(labels)):
        known = ~np.isnan(labels[:, column])
        result[:, column] = weighted_roc_auc(scores[known, column], labels[known, column], weights[:, known])
    return result


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def mean_of_known(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of values of any shape over an axis, without NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    count = known.sum(axis=axis)
    mean: np.ndarray = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return mean
