"""From a model's logits to the probabilities that are judged: per class, per case or per patient."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.atomic_files import write_atomically
from anatobench.tasks import MISSING_TARGET, Task

AGGREGATIONS = ("none", "mean", "max")
"""How the cases of one patient become one prediction."""


@dataclass(frozen=True)
class Predictions:
    """Logits and targets of the cases of one split."""

    task: Task
    case_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    logits: np.ndarray
    """float32 [N, logits]"""
    targets: np.ndarray
    """int8 [N, groups], `MISSING_TARGET` where unknown."""


@dataclass(frozen=True)
class ClassPredictions:
    """What the metrics see: one row per case or, after aggregation, per patient."""

    class_names: tuple[str, ...]
    probabilities: np.ndarray
    """float64 [N, classes]"""
    labels: np.ndarray
    """float64 [N, classes]: 0, 1 or NaN where unknown."""
    patient_ids: tuple[str, ...]


def output_names(task: Task) -> tuple[str, ...]:
    """Return a name for each logit: the group's, and for a graded group `<group>_<grade>`."""
    return tuple(
        name
        for group in task.groups
        for name in ([group.name] if group.binary else [f"{group.name}_{grade}" for grade in group.grades])
    )


def _log_grade_probabilities(task: Task, logits: np.ndarray) -> list[np.ndarray]:
    """Per group log probabilities, float64 [N, grades]: log-sigmoid for two grades, log-softmax for more."""
    result = []
    for group, columns in zip(task.groups, task.logit_slices, strict=True):
        z = logits[:, columns]
        if group.binary:
            z = np.concatenate([np.zeros_like(z), z], axis=1)  # a sigmoid is a softmax against a logit of 0
        # Differences first: z - logsumexp(z) would round to 0 where a grade is almost sure.
        result.append(-np.logaddexp.reduce(z[:, :, None] - z[:, None, :], axis=1))
    return result


def class_probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Probabilities of `task.class_names`, float64 [N, classes], from logits [N, logits].

    `any_injury` is 1 - prod(p_healthy) (AutoSeg, equation 2) as -expm1(sum(log p_healthy)), which keeps its digits
    where every group is almost surely healthy.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[1] != task.logit_count:
        raise ValueError(f"logits of shape {logits.shape}: task {task.name} has {task.logit_count} per case")
    log_grades = _log_grade_probabilities(task, logits)
    if not task.report_all_grades:
        return np.stack([-np.expm1(log_grade[:, 0]) for log_grade in log_grades], axis=1)
    columns = [np.exp(log_grade) for log_grade in log_grades]
    if task.any_injury_sample_weights:
        columns.append(-np.expm1(sum(log_grade[:, :1] for log_grade in log_grades)))
    return np.concatenate(columns, axis=1)


def class_labels(task: Task, targets: np.ndarray) -> np.ndarray:
    """Labels of `task.class_names`, float64 [N, classes] of 0, 1 and NaN (unknown), from grades [N, groups].

    `any_injury` is 1 as soon as one known grade is not healthy, 0 if every group is known to be healthy.
    """
    targets = np.asarray(targets)
    unknown = targets == MISSING_TARGET
    if not task.report_all_grades:
        return np.where(unknown, np.nan, (targets > 0).astype(np.float64))
    columns = []
    for position, group in enumerate(task.groups):
        one_hot = (targets[:, position, None] == np.arange(len(group.grades))).astype(np.float64)
        columns.append(np.where(unknown[:, position, None], np.nan, one_hot))
    if task.any_injury_sample_weights:
        injured = np.any(targets > 0, axis=1, keepdims=True)
        columns.append(np.where(injured, 1.0, np.where(unknown.any(axis=1, keepdims=True), np.nan, 0.0)))
    return np.concatenate(columns, axis=1)


def default_aggregation(task: Task) -> str:
    """`mean` for RATIC, whose labels are per patient and whose patients have one or two series; `none` elsewhere."""
    return "mean" if task.any_injury_sample_weights else "none"


def classify(predictions: Predictions, aggregation: str) -> ClassPredictions:
    """Probabilities and labels per case (`none`), or one row per patient by the `mean` or the `max` of its cases.

    `max` believes the most suspicious scan: the highest probability of every finding and the lowest of health.
    `AnatoBenchError` if a patient's cases disagree about a label.
    """
    task = predictions.task
    probabilities = class_probabilities(task, predictions.logits)
    labels = class_labels(task, predictions.targets)
    if aggregation == "none":
        return ClassPredictions(task.class_names, probabilities, labels, predictions.patient_ids)
    if aggregation not in AGGREGATIONS:
        raise UsageError(f"aggregation {aggregation!r}: choose one of {', '.join(AGGREGATIONS)}")
    patients = tuple(dict.fromkeys(predictions.patient_ids))
    rows: dict[str, list[int]] = {patient: [] for patient in patients}
    for row, patient in enumerate(predictions.patient_ids):
        rows[patient].append(row)
    healthy = healthy_columns(task)
    merged = [_merge(probabilities[rows[patient]], aggregation, healthy) for patient in patients]
    agreed = [_agreed_labels(labels[rows[patient]], patient, task.class_names) for patient in patients]
    return ClassPredictions(task.class_names, np.array(merged), np.array(agreed), patients)


def healthy_columns(task: Task) -> np.ndarray:
    """Return which of `task.class_names` are a group's healthy grade: bool [classes]."""
    if not task.report_all_grades:
        return np.zeros(len(task.class_names), dtype=bool)
    columns = [grade == 0 for group in task.groups for grade in range(len(group.grades))]
    return np.array(columns + [False] * (len(task.class_names) - len(columns)))


def _merge(probabilities: np.ndarray, aggregation: str, healthy: np.ndarray) -> np.ndarray:
    if aggregation == "mean":
        return np.asarray(probabilities.mean(axis=0))
    return np.asarray(np.where(healthy, probabilities.min(axis=0), probabilities.max(axis=0)))


def _agreed_labels(labels: np.ndarray, patient: str, names: tuple[str, ...]) -> np.ndarray:
    """Return the known labels of one patient's cases, float64 [classes]."""
    agreed = np.fmax.reduce(labels, axis=0)  # fmax and fmin ignore NaN unless all are NaN
    for name, low, high in zip(names, np.fmin.reduce(labels, axis=0), agreed, strict=True):
        if low != high and not math.isnan(low):
            raise AnatoBenchError(
                f"patient {patient}: its cases have different labels for {name}, so they cannot be judged as one "
                f"patient: correct the labels, or evaluate with --aggregate none"
            )
    return np.asarray(agreed)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """CSV: case_id, patient_id, one `logit:<output>` per logit, one `target:<group>` per group (-1: unknown)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    task = predictions.task
    writer.writerow(_csv_header(task))
    for row, case_id in enumerate(predictions.case_ids):
        logits = [str(value) for value in predictions.logits[row].astype(np.float32)]
        writer.writerow([case_id, predictions.patient_ids[row], *logits, *predictions.targets[row].tolist()])
    write_atomically(path, text.getvalue().encode())


def read_predictions(path: Path, task: Task) -> Predictions:
    """Return the inverse of `write_predictions`; `AnatoBenchError` if the file is not one of this task."""
    logit_columns = slice(2, 2 + task.logit_count)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
        if header != _csv_header(task) or any(len(row) != len(header) for row in rows):
            raise ValueError("other columns")
        logits = [[float(cell) for cell in row[logit_columns]] for row in rows]
        targets = [[int(cell) for cell in row[logit_columns.stop :]] for row in rows]
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path}: not predictions of task {task.name} ({error}): run evaluate again") from None
    return Predictions(
        task,
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        np.array(logits, dtype=np.float32).reshape(len(rows), task.logit_count),
        np.array(targets, dtype=np.int8).reshape(len(rows), len(task.groups)),
    )


def _csv_header(task: Task) -> list[str]:
    logits = [f"logit:{name}" for name in output_names(task)]
    return ["case_id", "patient_id", *logits, *(f"target:{group.name}" for group in task.groups)]
