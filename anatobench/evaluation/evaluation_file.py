"""`RUN/evaluation_<split>.json`: what `anatobench evaluate` found, its format, and the one reader that checks it.

A figure is a share from 0 to 1, or null where it is undefined. A file of an earlier version may lack a field; what is
there and is no such thing is refused, whoever reads it. What no command reads back stands for people: `brier`
(calibration.py), `macro_classes`, `classes`, `cases`, `bootstrap` (what the figures rest on), `split`,
`task`, `model`, `size`, `segmentation` and `framework`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.metrics import RATES
from anatobench.evaluation.predictions import AGGREGATIONS
from anatobench.system.atomic_files import write_atomically
from anatobench.system.command_line import shown
from anatobench.system.json_text import read_json
from anatobench.tasks import Task
from anatobench.training.run_folder import evaluation_file

Figures = dict[str, float | None]
"""By name."""
_NULLABLE = ("auc", "organ_dice")


class Evaluation(TypedDict, total=False):
    """The fields that commands read back."""

    auc: Figures
    """By class, and under `macro` their mean; null for a run that left the classifier as it was drawn."""
    sensitivity: Figures
    """By class and `macro`, as `specificity`, `precision` and `f1_weighted`, at the thresholds."""
    specificity: Figures
    precision: Figures
    f1_weighted: Figures
    ci95: dict[str, dict[str, list[float] | None]]
    """Of each of these the two ends of a 95 % interval, by class and `macro`; null where undefined."""
    rows: int
    """Patients that were judged, or scans where `aggregation` is `none`."""
    positives: dict[str, int]
    """By class, as `negatives`; a row whose label is unknown is neither."""
    negatives: dict[str, int]
    positive_patients: dict[str, int]
    """Patients among whose rows is such a one, by class, as `negative_patients`: over them intervals are drawn."""
    negative_patients: dict[str, int]
    patients: int
    undefined: dict[str, str]
    """Why, by class."""
    thresholds: Figures
    """By class the probability from which on a case is called positive."""
    threshold_rule: str
    threshold_split: str
    """Where they were chosen."""
    aggregation: str
    """One of `predictions.AGGREGATIONS`."""
    organ_dice: Figures
    """By organ, and under `macro` their mean; null for a model without the auxiliary head."""
    step: int
    """The checkpoint's."""


def write_evaluation(run: Path, split: str, figures: Mapping[str, Any]) -> None:
    """Write what was found on a split into the run's folder."""
    content = json.dumps(figures, allow_nan=False, indent=2) + "\n"
    write_atomically(run / evaluation_file(split), content.encode())


def read_evaluation(run: Path, split: str, task: Task, needs: Collection[str]) -> Evaluation:
    """Return what was found on a split of the run's task; `AnatoBenchError` names the file if it cannot be read, if one
    of the fields that the caller `needs` is missing or null, or if anything in it is not as `Evaluation` says."""
    path = run / evaluation_file(split)
    try:
        figures = read_json(path)
        _check(figures, task.class_names, needs)
    except (ValueError, AnatoBenchError) as error:
        why = str(error).removeprefix(f"{path}: ")
        raise AnatoBenchError(
            f"{path}: not what evaluate writes ({why}): run `{shown('evaluate', run, '--split', split)}` again"
        ) from None
    return cast(Evaluation, figures)


def judged_on(figures: Mapping[str, Any]) -> str:
    """Say how many patients, or cases of how many, the figures rest on; nothing where the file does not say it."""
    if "rows" not in figures or "aggregation" not in figures:
        return ""
    patients = _counted(figures.get("patients", figures["rows"]), "patient")
    if figures["aggregation"] != "none":
        return patients
    cases = _counted(figures["rows"], "case")
    return cases if figures.get("patients", figures["rows"]) == figures["rows"] else f"{cases} of {patients}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _check(figures: Any, classes: Collection[str], needs: Collection[str]) -> None:
    """Raise ValueError that names what is wrong."""
    given = _object("the whole", figures)
    there = {name: value for name, value in given.items() if value is not None or name not in _NULLABLE}
    missing = [name for name in needs if name not in there]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    with_mean = ("macro", *classes)
    for name, names, is_one in (
        *((metric, with_mean, _is_figure) for metric in ("auc", *RATES)),
        ("thresholds", classes, _is_figure),
        ("organ_dice", ("macro",), _is_figure),
        ("undefined", (), _is_text),
        ("positives", classes, _is_count),
        ("negatives", classes, _is_count),
        ("positive_patients", classes, _is_count),
        ("negative_patients", classes, _is_count),
    ):
        if name in there:
            _check_each(name, there[name], names, is_one)
    if "ci95" in there:
        of_metrics = _object("ci95", there["ci95"])
        for name in ("auc", *of_metrics):
            _check_each(f"ci95 of {name!r:.80}", of_metrics.get(name), with_mean, _is_interval)
    for name in ("threshold_rule", "threshold_split"):
        if not _is_text(there.get(name, "")):
            raise ValueError(f"{name} must be text, not {there[name]!r:.80}")
    if there.get("aggregation", AGGREGATIONS[0]) not in AGGREGATIONS:
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {there['aggregation']!r:.80}")
    if type(there.get("step", 0)) is not int:
        raise ValueError(f"step must be a whole number, not {there['step']!r:.80}")
    for name in ("rows", "patients"):
        if not _is_count(there.get(name, 0)):
            raise ValueError(f"{name} must be a whole number from 0 on, not {there[name]!r:.80}")


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {value!r:.80}")
    return value


def _check_each(name: str, table: Any, names: Collection[str], is_one: Callable[[Any], bool]) -> None:
    """Raise ValueError unless `table` has all of these names, and `is_one` is true of everything in it."""
    found = _object(name, table)
    for each in names:
        if each not in found:
            raise ValueError(f"{name} lacks {each}")
    for each, value in found.items():
        if not is_one(value):
            raise ValueError(f"{name} of {each!r:.80} cannot be {value!r:.80}")


def _is_figure(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)  # neither NaN nor infinity is


def _is_interval(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and None not in value and all(map(_is_figure, value))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
