"""ROC curves of the test split: one plot per class, and the macro average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from anatobench.evaluation.metrics import roc_curve
from anatobench.evaluation.predictions import ClassPredictions, classify, default_aggregation, healthy_columns
from anatobench.report.html_parts import paragraph, pictures
from anatobench.report.plots import STYLE, image, line_styles, panel, run_legend, wrapped
from anatobench.report.run_results import RunResults
from anatobench.tasks import Task

Curve = tuple[np.ndarray, np.ndarray]
"""False and true positive rates, each float64 [points]."""
MACRO = "macro average"
_MACRO_POINTS = 201
ROC_REM = 9.8
"""Least width of a plot on the page: two beside each other on a telephone."""


def roc_plots(runs: Sequence[RunResults]) -> str:
    """Return one ROC plot per class that has both label values in the test split, and their mean; empty if there is
    none."""
    curves = {run.label: class_curves(run) for run in runs if run.predictions is not None}
    mirrored = {name for run in runs for name in mirrored_classes(run.config.task)}
    names = [name for name in runs[0].config.task.class_names if any(name in found for found in curves.values())]
    shown = [name for name in names if name not in mirrored]
    if not shown:
        return ""
    with_mean = {label: {**found, MACRO: macro_curve(list(found.values()))} for label, found in curves.items() if found}
    plots = [_plot(runs, with_mean, name) for name in (MACRO, *shown)]
    text = (
        "Dots are the operating points that evaluation chose. The macro average is the mean true positive rate of all "
        "columns that have a curve, at equal false positive rates."
    )
    return paragraph(text) + run_legend(runs) + pictures(plots, ROC_REM)


def judged(run: RunResults) -> ClassPredictions:
    """Return the test split as the evaluation judged it, per case or per patient; the run must have been evaluated."""
    assert run.predictions is not None
    aggregation = (run.test or {}).get("aggregation") or default_aggregation(run.config.task)
    return classify(run.predictions, aggregation)


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
    """Return a two-grade group's healthy column is the mirror of its injury column: the same curve, shown once."""
    two_way = {name for group in task.groups if group.binary for name in (f"{group.name}_{group.grades[0]}",)}
    return {name for name, healthy in zip(task.class_names, healthy_columns(task), strict=True) if healthy} & two_way


def _plot(runs: Sequence[RunResults], curves: dict[str, dict[str, Curve]], name: str) -> str:
    styles = line_styles(runs)
    title = name.replace("_", " ")
    found = []
    with plt.rc_context(STYLE):
        figure, axes = panel(wrapped(title, 24), "false positive rate", "true positive rate", (2.3, 2.5))
        axes.plot([0, 1], [0, 1], color="#888", linewidth=0.7)
        for run in runs:
            curve = curves.get(run.label, {}).get(name)
            if curve is None:
                continue
            axes.plot(*curve, **styles[run.label])
            point = _operating_point(run.test, name)
            if point is not None:
                axes.plot(*point, "o", markersize=4, color=styles[run.label]["color"])
            auc = None if run.test is None else run.test["auc"].get("macro" if name == MACRO else name)
            found.append(run.label if auc is None else f"{run.label}, AUC {auc:.3f}")
        axes.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        return f"<figure>{image(figure, f'ROC curve of {title}, test split: ' + '; '.join(found))}</figure>"


def _operating_point(test: dict[str, Any] | None, name: str) -> tuple[float, float] | None:
    """Return the (false, true positive rate) at the threshold of the evaluation."""
    if test is None:
        return None
    sensitivity, specificity = test["sensitivity"].get(name), test["specificity"].get(name)
    return None if sensitivity is None or specificity is None else (1 - specificity, sensitivity)
