"""The page of the transfer: one plot, one table, and the organ Dice of the pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from anatobench import __version__
from anatobench.experiments.results import FRAMEWORK_NAMES
from anatobench.experiments.transfer import FROZEN, count_name
from anatobench.experiments.transfer_results import WORDS, class_table, dice_table, result_table
from anatobench.report.html_parts import html_page, not_there, paragraph, table
from anatobench.report.plots import DASHES, image, legend_below, panels_in_a_row

ENOUGH = 3
"""Repetitions whose interval the plot makes room for."""
MARGIN = 2.0
TITLE = "What pre-training on masks gives a diagnosis of few cases"
COLOURS = {"none": "#6b6f76", "kinetics": "#8a5fb0", "partial_masks": "#c8491d", "all_masks": "#1f5fa8"}
"""Hue tells the weights here, a column of the plot the framework."""
PUBLISHED_NOTE = (
    "Published gains are those of supervised over self-supervised pre-training by 5, 10 and 20 cases (abstract "
    "2023-SP-2065 of RSNA). They are for orientation alone: they are Dice of segmentation on private scans of JHH, "
    "which nobody outside can repeat, and these are AUC of a diagnosis, over weights that were drawn."
)
READING = (
    "AUC is the macro average on the test split. A repetition is one seed, of pre-training, transfer and the draw of "
    "cases, of which fewer are among more; intervals are 95 % over repetitions (Student's t), of gains and losses "
    f"paired by repetition. The plot makes room for intervals of {ENOUGH} repetitions and more."
)
DICE_NOTE = "By case and volume, on the test cases of the store that it was trained on; macro is the mean over organs."


def interval_note(record: Mapping[str, Any]) -> str:
    """Say of which conditions the interval is undefined; empty where of none."""
    single = sum(row["count"] == 1 for row in record["results"])
    said = (
        f"{single} of {len(record['results'])} conditions have one repetition alone: their intervals are undefined, "
        "and their gains say nothing of chance. Ask for more --repetitions."
    )
    return said if single else ""


def build_transfer_page(record: Mapping[str, Any]) -> str:
    """Return the whole page from a record of `experiments.transfer_results`."""
    settings, cohort = record["settings"], record["cohort"]
    synthetic = "synthetic cohorts, drawn by a program, no patient's; " if record.get("synthetic") else ""
    facts = (
        f"{synthetic}{settings['model']} ({record['size']}) on {record['task']}: {cohort['train']} training cases, "
        f"some of them labelled, {cohort['validation']} validation and {cohort['test']} test cases; "
        f"{settings['pretraining_steps']} steps of pre-training, {settings['steps']} of transfer; "
        f"AnatoBench {__version__}"
    )
    dice = table(*dice_table(record))
    sections = {
        "Test AUC by labelled cases": _plot(record) + paragraph(READING),
        "Every condition": table(*result_table(record)) + paragraph(interval_note(record), PUBLISHED_NOTE),
        "Gains of each finding, of the fewest cases": table(*class_table(record)),
        "Organ Dice of the pre-training": dice + paragraph(DICE_NOTE) if dice else "",
        "Not there": not_there(record),
    }
    return html_page(TITLE, sections, remark=facts)


def _plot(record: Mapping[str, Any]) -> str:
    frameworks = list(dict.fromkeys(row["framework"] for row in record["results"]))
    counts = sorted({row["cases"] for row in record["results"]}, key=lambda cases: cases or float("inf"))
    with panels_in_a_row(len(frameworks), (3.7, 3.2)) as (figure, panels):
        for axes, framework in zip(panels, frameworks, strict=True):
            _lines(axes, [row for row in record["results"] if row["framework"] == framework], counts)
            axes.set(title=FRAMEWORK_NAMES[framework], xlabel="labelled cases")
        panels[0].set(ylabel="test AUC, per cent", ylim=_limits(record["results"]), xlim=(-0.5, len(counts) - 0.5))
        legend_below(figure, panels[0], columns=3)
    described = "; ".join(
        f"{count_name(row['cases'])} cases, {WORDS[row['weights']]}, {WORDS[row['mode']]}, "
        f"{FRAMEWORK_NAMES[row['framework']]} {100 * row['mean']:.1f}"
        for row in record["results"]
    )
    return image(figure, f"Test AUC by number of labelled cases: {described}")


def _limits(results: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return what the plot shows, in per cent: every mean and the intervals of enough repetitions; those of two may run
    out of the plot, since they can span everything."""
    ends = [100 * row["mean"] for row in results]
    for row in results:
        if row["low"] is not None and row["count"] >= ENOUGH:
            ends += [100 * row["low"], 100 * row["high"]]
    return min(ends) - MARGIN, max(ends) + MARGIN


def _lines(axes: Axes, found: list[Mapping[str, Any]], counts: list[int]) -> None:
    """Draw a line per weights and way of transfer, each a little beside the others so that intervals stay apart."""
    kinds = list(dict.fromkeys((row["weights"], row["mode"]) for row in found))
    for number, (weights, mode) in enumerate(kinds):
        of_kind = [row for row in found if (row["weights"], row["mode"]) == (weights, mode)]
        of_kind.sort(key=lambda row: counts.index(row["cases"]))
        places = [counts.index(row["cases"]) + 0.06 * (number - (len(kinds) - 1) / 2) for row in of_kind]
        for place, row in zip(places, of_kind, strict=True):
            if row["low"] is not None:
                axes.plot([place] * 2, [100 * row["low"], 100 * row["high"]], color=COLOURS[weights], linewidth=1.0)
        axes.plot(places, [100 * row["mean"] for row in of_kind], marker="o", markersize=4, color=COLOURS[weights],
                  linestyle=DASHES if mode == FROZEN else "-", label=f"{WORDS[weights]}, {WORDS[mode]}")  # fmt: skip
    axes.set_xticks(range(len(counts)), [count_name(cases) for cases in counts])
