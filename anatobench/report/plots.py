"""Plots for the report, as self-contained <img> elements with alt texts.

Hue tells the framework, dashes the missing segmentation branch, so that a plot survives grey printing in pairs.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from anatobench.predictions import classify, default_aggregation
from anatobench.report.run_results import RunResults

COLOURS = {"torch": "#c8491d", "jax": "#1f5fa8"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "anatobench",
    "svg.fonttype": "path",
}


def image(figure: Figure, alt: str, kind: str = "svg") -> str:
    """The figure as an <img> with its bytes inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=110, metadata={"Date": None} if kind == "svg" else {})
    plt.close(figure)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:{mime};base64,{data}" alt="{html.escape(alt, quote=True)}">'


def _line_style(run: RunResults) -> dict[str, Any]:
    return {
        "color": COLOURS[run.config.framework],
        "linestyle": "-" if run.config.segmentation else (0, (4, 2)),
        "linewidth": 1.4,
        "label": run.label,
    }


def _smooth(values: Sequence[float], weight: float = 0.9) -> np.ndarray:
    """Exponential moving average, started without bias."""
    smoothed, average, scale = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        scale = weight * scale + (1 - weight)
        smoothed.append(average / scale)
    return np.array(smoothed)


def learning_curves(runs: Sequence[RunResults]) -> str:
    """Classification loss, segmentation loss and validation AUC over steps."""
    with plt.rc_context(STYLE):
        figure, (classification, segmentation, auc) = plt.subplots(1, 3, figsize=(11, 3.1), layout="constrained")
        for run in runs:
            steps = [record["step"] for record in run.steps]
            style = _line_style(run)
            classification.plot(steps, _smooth([record["classification"] for record in run.steps]), **style)
            if run.config.segmentation:
                segmentation.plot(steps, _smooth([record["segmentation"] for record in run.steps]), **style)
            points = [(r["step"], r["auc_macro"]) for r in run.evaluations if r.get("auc_macro") is not None]
            if points:
                auc.plot(*zip(*points, strict=True), marker="o", markersize=3, **style)
        _name_axes(classification, "Classification loss", "loss (moving average)")
        _name_axes(segmentation, "Segmentation loss", "loss (moving average)")
        _name_axes(auc, "Validation AUC, macro", "AUC")
        handles, labels = classification.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), frameon=False)
    names = "; ".join(run.label for run in runs)
    return image(figure, f"Learning curves over training steps for {names}")


def _name_axes(axes: Axes, title: str, quantity: str) -> None:
    axes.set(title=title, xlabel="training step", ylabel=quantity)


def roc_plots(runs: Sequence[RunResults]) -> str:
    """One ROC plot per class that has both label values in the test split; empty if there is none."""
    curves: dict[str, list[tuple[RunResults, np.ndarray, np.ndarray]]] = {}
    for run in runs:
        if run.predictions is None:
            continue
        judged = classify(run.predictions, default_aggregation(run.config.task))
        for name, truth, scores in zip(judged.class_names, judged.labels.T, judged.probabilities.T, strict=True):
            known = ~np.isnan(truth)
            if len(np.unique(truth[known])) == 2:
                false_positives, true_positives, _ = roc_curve(truth[known], scores[known])
                curves.setdefault(name, []).append((run, false_positives, true_positives))
    # A two-grade group's healthy column is the mirror of its injury column: the same curve, shown once.
    shown = {name: entries for name, entries in curves.items() if name not in _mirrored_classes(runs)}
    if not shown:
        return ""
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(1.9 * columns, 2.1 * rows + 0.3), layout="constrained", squeeze=False,
            sharex=True, sharey=True,
        )  # fmt: skip
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, (name, entries) in zip(grid.flat, shown.items(), strict=False):
            axes.plot([0, 1], [0, 1], color="#999", linewidth=0.7)
            for run, false_positives, true_positives in entries:
                axes.plot(false_positives, true_positives, **_line_style(run))
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.set_aspect("equal")
        figure.supxlabel("false positive rate", fontsize=9)
        figure.supylabel("true positive rate", fontsize=9)
    return image(figure, f"ROC curves on the test split for {', '.join(shown)}")


def _mirrored_classes(runs: Sequence[RunResults]) -> set[str]:
    return {
        f"{group.name}_{group.grades[0]}"
        for run in runs
        if run.config.task.report_all_grades
        for group in run.config.task.groups
        if group.binary
    }
