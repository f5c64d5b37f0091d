"""Curves over training steps: losses and validation AUC, and the training dynamics of the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from anatobench.report.html_parts import paragraph, pictures
from anatobench.report.plots import PANEL_REM, STYLE, debiased_average, image, line_styles, panel, run_legend
from anatobench.report.run_results import RunResults
from anatobench.training.metrics_records import term_names

LOSS_WEIGHT = 0.9
"""Of the moving average of a learning curve: about the last ten steps."""
DYNAMICS_WEIGHT = 0.98
"""Of the bold lines of the dynamics: about the last fifty steps."""

Points = Callable[[RunResults], list[tuple[float, float]]]


def learning_curves(runs: Sequence[RunResults]) -> str:
    """Return every term of the loss and validation AUC over steps; a plot without data is left out."""
    averaged = "loss, moving average"
    terms = dict.fromkeys(name for run in runs for name in term_names(run.steps))

    def loss(name: str) -> Points:
        def points(run: RunResults) -> list[tuple[float, float]]:
            steps = [step for step in run.steps if name in step] if name in term_names(run.steps) else []
            values = debiased_average([step[name] for step in steps], LOSS_WEIGHT)
            return list(zip([step["step"] for step in steps], values.tolist(), strict=True))

        return points

    def validation_auc(run: RunResults) -> list[tuple[float, float]]:
        return [(r["step"], r["auc_macro"]) for r in run.evaluations if r.get("auc_macro") is not None]

    return _row(
        runs,
        [
            *(_plot(runs, f"{name.replace('_', ' ').capitalize()} loss", averaged, loss(name)) for name in terms),
            _plot(runs, "Validation AUC, macro", "AUC, 0 to 1", validation_auc, marker="o", markersize=3),
        ],
    )


def training_dynamics(runs: Sequence[RunResults]) -> str:
    """Gradient norm and loss of every step with their time-weighted averages, and sharpness where it was logged."""

    def of_steps(name: str) -> Points:
        return lambda run: [(step["step"], step[name]) for step in run.steps]

    def sharpness(run: RunResults) -> list[tuple[float, float]]:
        return [(record["step"], record["largest_eigenvalue"]) for record in run.sharpness]

    row = _row(
        runs,
        [
            _plot(runs, "Gradient norm", "norm, before clipping", of_steps("gradient_norm"), average=True),
            _plot(runs, "Training loss", "loss, no unit", of_steps("loss"), average=True),
            _plot(runs, "Sharpness", "largest Hessian eigenvalue", sharpness, marker="o", markersize=3),
        ],
    )
    if not row:
        return ""
    text = (
        "As in the paper's Figure 3: thin lines are single steps, bold ones their exponential moving average "
        f"(weight {DYNAMICS_WEIGHT}, started without bias). Sharpness, the largest eigenvalue of the loss's Hessian "
        "on the run's first batch, says how flat the minimum is; "
    )
    measured = any(run.sharpness for run in runs)
    return paragraph(text + ("lower is flatter." if measured else "it was not measured in these runs.")) + row


def _row(runs: Sequence[RunResults], plots: Sequence[str]) -> str:
    drawn = [plot for plot in plots if plot]
    return run_legend(runs) + pictures(drawn, PANEL_REM) if drawn else ""


def _plot(
    runs: Sequence[RunResults], title: str, quantity: str, points: Points, average: bool = False, **style: Any
) -> str:
    """Return one plot with a line per run that has points; `average` draws the points thin and their average bold."""
    curves = {run.label: found for run in runs if (found := points(run))}
    if not curves:
        return ""
    styles = line_styles(runs)
    with plt.rc_context(STYLE):
        figure, axes = panel(title, "training step", quantity)
        for label, found in curves.items():
            steps, values = zip(*found, strict=True)
            if average:
                _raw_and_average(axes, steps, values, styles[label])
            else:
                axes.plot(steps, values, **styles[label], **style)
        if average and all(value > 0 for found in curves.values() for _, value in found):
            axes.set_yscale("log")
            for ticks in ("set_major_formatter", "set_minor_formatter"):  # 300 rather than 3 x 10^2
                getattr(axes.yaxis, ticks)(LogFormatter(minor_thresholds=(2, 0.5)))
        last = "; ".join(f"{label} ends at {found[-1][1]:.3g}" for label, found in curves.items())
        return f"<figure>{image(figure, f'{title} ({quantity}) over training steps: {last}')}</figure>"


def _raw_and_average(axes: Axes, steps: Sequence[float], values: Sequence[float], style: dict[str, Any]) -> None:
    axes.plot(steps, values, color=style["color"], linewidth=0.5, alpha=0.35)
    axes.plot(steps, debiased_average(values, DYNAMICS_WEIGHT), **{**style, "linewidth": 1.3 * style["linewidth"]})
