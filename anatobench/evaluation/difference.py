"""The difference in AUC of two models on the same patients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.metrics import (
    BOOTSTRAP_REPLICATES,
    auc_values,
    by_name,
    intervals_by_name,
    patient_draws,
    resampled_auc,
)
from anatobench.evaluation.predictions import Predictions, classify


def auc_difference(
    first: Predictions, second: Predictions, aggregation: str, replicates: int = BOOTSTRAP_REPLICATES, seed: int = 0
) -> dict[str, Any]:
    """Return the second model's AUC less the first's, per class and macro, as plain JSON values.

    In each replicate the same patients are drawn for both, so what makes a patient hard for both does not widen the
    interval. It says nothing of another seed of either training. `AnatoBenchError` if the two were not given the
    same cases with the same labels.
    """
    second = _in_order_of(first, second)
    pair = [classify(one, aggregation) for one in (first, second)]
    names, patient_ids = pair[0].class_names, pair[0].patient_ids
    draws, patient_of_row = patient_draws(patient_ids, replicates, seed)
    values = [auc_values(one) for one in pair]
    resampled = [resampled_auc(one, draws, patient_of_row) for one in pair]
    difference = values[1] - values[0]
    return {
        "auc": [by_name(names, value) for value in values],
        "difference": by_name(names, difference),
        "ci95": intervals_by_name(names, difference, resampled[1] - resampled[0]),
        "aggregation": aggregation,
        "rows": len(patient_ids),
        "patients": draws.shape[1],
        "bootstrap": {"replicates": replicates, "seed": seed, "unit": "patient, the same for both"},
    }


def refuse_other_cases(first: Iterable[str], second: Iterable[str]) -> None:
    """Raise `AnatoBenchError` unless two runs were judged on the same cases."""
    alone = sorted(set(first) ^ set(second))
    if alone:
        raise AnatoBenchError(
            f"{len(alone)} case(s) are judged in one of the runs alone, for example {alone[0]}: a difference needs "
            f"the same cases, so evaluate both on one store with --store"
        )


def _in_order_of(first: Predictions, second: Predictions) -> Predictions:
    """Return the second's rows in the first's order."""
    if first.task != second.task:
        raise AnatoBenchError(f"the runs have tasks {first.task.name} and {second.task.name}: no AUC can be compared")
    refuse_other_cases(first.case_ids, second.case_ids)
    rows = {case_id: row for row, case_id in enumerate(second.case_ids)}
    order = [rows[case_id] for case_id in first.case_ids]
    changed = np.flatnonzero((first.targets != second.targets[order]).any(axis=1))
    patients = tuple(second.patient_ids[row] for row in order)
    changed = np.union1d(changed, [row for row, patient in enumerate(patients) if patient != first.patient_ids[row]])
    if len(changed):
        example = first.case_ids[int(changed[0])]
        raise AnatoBenchError(
            f"case {example} has another label or patient in the second run, as have {len(changed) - 1} others: "
            f"evaluate both on one store with --store"
        )
    return replace(
        second,
        case_ids=first.case_ids,
        patient_ids=patients,
        logits=second.logits[order],
        targets=second.targets[order],
    )
