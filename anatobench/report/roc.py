"""ROC curves of the test split: one plot per class, and the macro average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anatobench.evaluation.metrics import roc_curve
from anatobench.evaluation.predictions import ClassPredictions, classify, healthy_columns
from anatobench.report.html_parts import paragraph, pictures
from anatobench.report.plots import image, line_styles, run_legend, unit_square, wrapped
from anatobench.report.run_results import RunResults
from anatobench.tasks import Task

Curve = tuple[np.ndarray, np.ndarray]
"""False and true positive rates, each float64 [points]."""
MACRO = "macro average"
TEXT = (
    "Dots are the operating points that evaluation chose. The macro average is the mean true positive rate of all "
    "columns that have a curve, at equal false positive rates."
)
_MACRO_POINTS = 201
ROC_REM = 9.8
"""Least width of a plot on the page: two beside each other on a telephone."""


def roc_plots(runs: Sequence[RunResults]) -> str:
    """Return a plot per class that has both label values in the test split, and one of their mean; "" without any."""
    curves = {run.label: class_curves(run) for run in runs if run.predictions is not None}
    mirrored = {name for run in runs for name in mirrored_classes(run.config.task)}
    names = [name for name in runs[0].config.task.class_names if any(name in found for found in curves.values())]
    shown = [name for name in names if name not in mirrored]
    if not shown:
        return ""
    with_mean = {label: {**found, MACRO: macro_curve(list(found.values()))} for label, found in curves.items() if found}
    plots = (_plot(runs, with_mean, name) for name in (MACRO, *shown))
    return paragraph(TEXT) + run_legend(runs) + pictures(plots, ROC_REM)


def judged(run: RunResults) -> ClassPredictions:
    """Return the test split as the evaluation judged it, per case or per patient; the run must have been evaluated."""
    assert run.predictions is not None
    return classify(run.predictions, run.aggregation)


def class_curves(run: RunResults) -> dict[str, Curve]:
    """By class, each rate float64 [points], of those that have both label values."""
    found, curves = judged(run), {}
    for name, truth, scores in zip(found.class_names, found.labels.T, found.probabilities.T, strict=True):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) == 2:
            curves[name] = roc_curve(scores[known], truth[known])
    return curves


def macro_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean true positive rate at equal false positive rates, each float64 [points]; it starts at (0, 0)."""
    rates = np.linspace(0, 1, _MACRO_POINTS)
    # Where a curve rises vertically, np.interp takes its upper end.
    mean = np.mean([np.interp(rates, false, true) for false, true in curves], axis=0)
    return np.concatenate([[0.0], rates]), np.concatenate([[0.0], mean])


def mirrored_classes(task: Task) -> set[str]:
    """Return the healthy columns of two-grade groups: each mirrors its injury column, so one curve is shown."""
    two_way = {f"{group.name}_{group.grades[0]}" for group in task.groups if group.binary}
    return {name for name, healthy in zip(task.class_names, healthy_columns(task), strict=True) if healthy} & two_way


def _plot(runs: Sequence[RunResults], curves: Mapping[str, Mapping[str, Curve]], name: str) -> str:
    styles, said = line_styles(runs), []
    title = name.replace("_", " ")
    with unit_square(wrapped(title, 24), "false positive rate", "true positive rate", (2.3, 2.5)) as (figure, axes):
        for run in runs:
            if name not in curves.get(run.label, {}):
                continue
            axes.plot(*curves[run.label][name], **styles[run.label])
            test: Mapping[str, Any] = run.test or {"sensitivity": {}, "specificity": {}, "auc": {}}
            sensitivity, specificity = test["sensitivity"].get(name), test["specificity"].get(name)
            if sensitivity is not None and specificity is not None:  # the operating point
                axes.plot(1 - specificity, sensitivity, "o", markersize=4, color=styles[run.label]["color"])
            auc = test["auc"].get("macro" if name == MACRO else name)
            said.append(run.label if auc is None else f"{run.label}, AUC {auc:.3f}")
        return f"<figure>{image(figure, f'ROC curve of {title}, test split: ' + '; '.join(said))}</figure>"
