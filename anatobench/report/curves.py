"""Curves over training steps: losses and validation AUC, and the training dynamics of the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import LogFormatter

from anatobench.report.html_parts import paragraph, pictures
from anatobench.report.plots import PANEL_REM, debiased_average, image, line_styles, panel, run_legend
from anatobench.report.run_results import RunResults
from anatobench.training.metrics_records import term_names

LOSS_WEIGHT = 0.9
"""Of the moving average of a learning curve: about the last ten steps."""
DYNAMICS_WEIGHT = 0.98
"""Of the bold lines of the dynamics: about the last fifty steps."""
DYNAMICS = (
    "As in the paper's Figure 3: thin lines are single steps, bold ones their exponential moving average "
    f"(weight {DYNAMICS_WEIGHT}, started without bias). Sharpness, the largest eigenvalue of the loss's Hessian on the "
    "run's first batch, says how flat the minimum is; "
)
MARKED: dict[str, Any] = {"marker": "o", "markersize": 3}
"""How figures look that few steps have."""

Points = list[tuple[float, float]]
"""Step and value of each."""


class PlainLogFormatter(LogFormatter):
    """Names the same ticks as 300 and 0.6, not as 3 x 10^2 and 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def learning_curves(runs: Sequence[RunResults]) -> str:
    """Return every term of the loss and validation AUC over steps; a plot without data is left out."""
    terms = [term_names(run.steps) for run in runs]
    plots = []
    for name in dict.fromkeys(name for names in terms for name in names):
        curves = [_points(run.steps if name in names else [], name) for run, names in zip(runs, terms, strict=True)]
        averages = [_averaged(points, LOSS_WEIGHT) for points in curves]
        plots.append(_plot(f"{name.replace('_', ' ').capitalize()} loss", "loss, moving average", runs, averages))
    auc = [_points(run.evaluations, "auc_macro") for run in runs]
    return _row(runs, *plots, _plot("Validation AUC, macro", "AUC, 0 to 1", runs, auc, **MARKED))


def training_dynamics(runs: Sequence[RunResults]) -> str:
    """Gradient norm and loss of every step with their time-weighted averages, and sharpness where it was logged."""
    norm, loss = ([_points(run.steps, name) for run in runs] for name in ("gradient_norm", "loss"))
    sharpness = [_points(run.sharpness, "largest_eigenvalue") for run in runs]
    row = _row(
        runs,
        _plot("Gradient norm", "norm, before clipping", runs, norm, average=True),
        _plot("Training loss", "loss, no unit", runs, loss, average=True),
        _plot("Sharpness", "largest Hessian eigenvalue", runs, sharpness, **MARKED),
    )
    said = "lower is flatter." if any(sharpness) else "it was not measured in these runs."
    return paragraph(DYNAMICS + said) + row if row else ""


def _points(records: Sequence[dict[str, Any]], name: str) -> Points:
    """Return what the records say of one figure, where they have it."""
    return [(record["step"], record[name]) for record in records if record.get(name) is not None]


def _averaged(points: Points, weight: float) -> Points:
    values = debiased_average([value for _, value in points], weight)
    return list(zip([step for step, _ in points], values.tolist(), strict=True))


def _row(runs: Sequence[RunResults], *plots: str) -> str:
    drawn = pictures(plots, PANEL_REM)
    return run_legend(runs) + drawn if drawn else ""


def _plot(
    title: str, quantity: str, runs: Sequence[RunResults], points: Sequence[Points], average: bool = False, **style: Any
) -> str:
    """Return one plot with a line per run that has points; `average` draws the points thin and their average bold."""
    curves = {run.label: found for run, found in zip(runs, points, strict=True) if found}
    if not curves:
        return ""
    styles = line_styles(runs)
    with panel(title, "training step", quantity) as (figure, axes):
        for label, found in curves.items():
            of_run = {**styles[label], **style}
            if average:
                axes.plot(*zip(*found, strict=True), color=of_run["color"], linewidth=0.5, alpha=0.35)
                of_run["linewidth"] *= 1.3
            line = _averaged(found, DYNAMICS_WEIGHT) if average else found
            axes.plot(*zip(*line, strict=True), **of_run)
        if average and all(value > 0 for found in curves.values() for _, value in found):
            axes.set_yscale("log")
            for ticks in ("set_major_formatter", "set_minor_formatter"):
                getattr(axes.yaxis, ticks)(PlainLogFormatter(minor_thresholds=(2, 0.5)))
        last = "; ".join(f"{label} ends at {found[-1][1]:.3g}" for label, found in curves.items())
        return f"<figure>{image(figure, f'{title} ({quantity}) over training steps: {last}')}</figure>"
