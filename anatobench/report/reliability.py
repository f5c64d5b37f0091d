"""Whether the probabilities mean what they say, on the test split: reliability plot and Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatobench.evaluation.calibration import brier, reliability
from anatobench.evaluation.predictions import ClassPredictions
from anatobench.report.html_parts import paragraph, pictures, table
from anatobench.report.plots import PANEL_REM, image, line_styles, run_legend, unit_square
from anatobench.report.roc import judged, mirrored_classes
from anatobench.report.run_results import RunResults
from anatobench.report.summary import with_interval

PLOT = (
    "Of the cases that were given about this probability, how many have the finding? On the dashed line the "
    "probabilities are true. All classes are pooled, ten bins of equal number; bars are 95 % intervals (Wilson) that "
    "take a patient's findings as independent."
)
BRIER = (
    "Brier score: the mean squared difference of probability and label, 0 at best. The last column is what anybody "
    "gets who gives every case the class's share of positives."
)


def probabilities_section(runs: Sequence[RunResults]) -> str:
    """Return a plot of all classes pooled and the Brier score of each; empty before evaluation."""
    found = [(run, judged(run)) for run in runs if run.predictions is not None]
    if not found:
        return ""
    return paragraph(PLOT) + run_legend(runs) + pictures([_plot(runs, found)], PANEL_REM) + _brier_table(found)


def _plot(runs: Sequence[RunResults], found: Sequence[tuple[RunResults, ClassPredictions]]) -> str:
    styles, told = line_styles(runs), []
    with unit_square("all classes", "probability given", "share with the finding", (3.2, 3.2), "--") as (figure, axes):
        for run, predictions in found:
            shown = [name not in mirrored_classes(run.config.task) for name in predictions.class_names]
            points = reliability(predictions.probabilities[:, shown].ravel(), predictions.labels[:, shown].ravel())
            bars = np.stack([points.observed - points.low, points.high - points.observed]).clip(min=0)
            style = {**styles[run.label], "marker": "o", "markersize": 3, "elinewidth": 0.8}
            axes.errorbar(points.predicted, points.observed, bars, **style)
            pairs = zip(points.predicted, points.observed, strict=True)
            told.append(f"{run.label}: " + ", ".join(f"{said:.2f} given {seen:.2f} seen" for said, seen in pairs))
        return f"<figure>{image(figure, 'Reliability of all classes, test split. ' + '; '.join(told))}</figure>"


def _brier_table(found: Sequence[tuple[RunResults, ClassPredictions]]) -> str:
    scores = {run.label: brier(predictions) for run, predictions in found}
    prevalence = next(iter(scores.values()))["by_prevalence"]
    rows = []
    for name in ("macro", *found[0][1].class_names):
        cells = (with_interval(score[name], score["ci95"][name]) for score in scores.values())
        rows.append((name.replace("_", " "), *cells, with_interval(prevalence[name], None)))
    return table(("Brier score", *scores, "share alone"), rows) + paragraph(BRIER)
