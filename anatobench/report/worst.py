"""Where the runs were most sure and wrong, with slices to look at; and the worst organs."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from anatobench.evaluation.organ_dice import lowest_dice
from anatobench.evaluation.worst_cases import SHOWN_LOW_DICE_CASES, WrongPrediction, most_wrong
from anatobench.report.html_parts import folded, paragraph, pictures, table
from anatobench.report.run_results import RunResults
from anatobench.report.slices import EXPLANATION, SLICE_REM, case_pictures

WRONG_HEADER = ("finding", "scan", "truth", "predicted probability", "threshold")


def worst_cases(runs: Sequence[RunResults]) -> str:
    """Per run the most confident wrong prediction of every class, a low-Dice list, and these scans' slices."""
    blocks = []
    for run in runs:
        if body := _wrong(run) + _low_dice(run):
            blocks.append(f"<h3>{html.escape(run.label)}</h3>{body}{_slices(run)}")
    if not blocks:
        return ""
    text = (
        "Of every finding the test scan that is furthest on the wrong side of the run's own threshold (0.5 where its "
        "evaluation chose none); no scan where all are on the right side. Scans are judged one by one here, also where "
        "the evaluation judges patients. "
    )
    return paragraph(text + EXPLANATION) + "".join(blocks)


def _wrong(run: RunResults) -> str:
    if run.predictions is None:
        return ""
    rows = [
        (wrong.finding.replace("_", " "), wrong.case_id, "present" if wrong.label else "absent",
         f"{wrong.probability:.3f}", f"{wrong.threshold:.3f}")
        for wrong in _wrong_predictions(run)
    ]  # fmt: skip
    return table(WRONG_HEADER, rows) if rows else "<p>No finding of any scan is on the wrong side of its threshold.</p>"


def _wrong_predictions(run: RunResults) -> list[WrongPrediction]:
    thresholds = (run.test or {}).get("thresholds", {})
    return [] if run.predictions is None else most_wrong(run.predictions, thresholds)


def _low_dice(run: RunResults) -> str:
    if run.organ_dice is None:
        return ""
    names = run.organ_dice.organs
    rows = [
        (case_id, *("-" if np.isnan(values[name]) else f"{values[name]:.3f}" for name in ("mean", *names)))
        for case_id, values in lowest_dice(run.organ_dice, SHOWN_LOW_DICE_CASES)
    ]
    header = ("lowest organ Dice", "mean", *(name.replace("_", " ") for name in names))
    return table(header, rows) if rows else ""


def _slices(run: RunResults) -> str:
    reasons, parts = _reasons(run), []
    for place, example in enumerate(run.worst):
        found = reasons.get(example.case_id)
        reason = f"{example.case_id}: {', '.join(found)}" if found else example.case_id
        rows = pictures(case_pictures(example, run.config.task, reason), SLICE_REM)
        parts.append(folded(reason, rows, is_open=place == 0))  # the worst at once, the others on a click
    return "".join(parts)


def _reasons(run: RunResults) -> dict[str, list[str]]:
    """Return why a scan is shown, by case."""
    reasons = defaultdict[str, list[str]](list)
    for wrong in _wrong_predictions(run):
        fault = "missed" if wrong.label else "false alarm"
        reasons[wrong.case_id].append(f"{wrong.finding.replace('_', ' ')} {fault} ({wrong.probability:.2f})")
    for case_id, values in [] if run.organ_dice is None else lowest_dice(run.organ_dice, SHOWN_LOW_DICE_CASES):
        reasons[case_id].append(f"low organ Dice ({values['mean']:.2f})")
    return reasons
