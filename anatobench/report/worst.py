"""Where the runs were most sure and wrong, with slices to look at; and the worst organs."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from anatobench.evaluation.organ_dice import lowest_dice
from anatobench.evaluation.worst_cases import SHOWN_LOW_DICE_CASES, most_wrong
from anatobench.report.html_parts import folded, paragraph, pictures, table
from anatobench.report.run_results import RunResults
from anatobench.report.slices import EXPLANATION, SLICE_REM, case_pictures

WRONG_HEADER = ("finding", "scan", "truth", "predicted probability", "threshold")
TEXT = (
    "Of every finding the test scan that is furthest on the wrong side of the run's own threshold (0.5 where its "
    "evaluation chose none); no scan where all are on the right side. Scans are judged one by one here, also where the "
    "evaluation judges patients. "
)


def worst_cases(runs: Sequence[RunResults]) -> str:
    """Per run the most confident wrong prediction of every class, a low-Dice list, and these scans' slices."""
    blocks = "".join(map(_block, runs))
    return paragraph(TEXT + EXPLANATION) + blocks if blocks else ""


def _block(run: RunResults) -> str:
    """Return the two tables of a run, and the slices of the scans in them with the reasons why each is shown."""
    tables, reasons = "", defaultdict[str, list[str]](list)
    if run.predictions is not None:
        rows = []
        for wrong in most_wrong(run.predictions, (run.test or {}).get("thresholds", {})):
            finding = wrong.finding.replace("_", " ")
            truth, fault = ("present", "missed") if wrong.label else ("absent", "false alarm")
            rows.append((finding, wrong.case_id, truth, f"{wrong.probability:.3f}", f"{wrong.threshold:.3f}"))
            reasons[wrong.case_id].append(f"{finding} {fault} ({wrong.probability:.2f})")
        tables = table(WRONG_HEADER, rows) or "<p>No finding of any scan is on the wrong side of its threshold.</p>"
    if run.organ_dice is not None:
        names, low = ("mean", *run.organ_dice.organs), []
        for case_id, dice in lowest_dice(run.organ_dice, SHOWN_LOW_DICE_CASES):
            low.append((case_id, *("-" if np.isnan(dice[name]) else f"{dice[name]:.3f}" for name in names)))
            reasons[case_id].append(f"low organ Dice ({dice['mean']:.2f})")
        tables += table(("lowest organ Dice", *(name.replace("_", " ") for name in names)), low)
    slices = ""
    for place, example in enumerate(run.worst):
        why = ", ".join(reasons[example.case_id])
        caption = f"{example.case_id}: {why}" if why else example.case_id
        shown = pictures(case_pictures(example, run.config.task, caption), SLICE_REM)
        slices += folded(caption, shown, is_open=place == 0)  # the worst at once, the others on a click
    return f"<h3>{html.escape(run.label)}</h3>{tables}{slices}" if tables else ""
