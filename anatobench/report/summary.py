"""The table that a demo prints and a report opens with, and what says that the runs are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from anatobench.report.run_results import RunResults

HEADER = (
    "run", "test AUC, macro [95 % interval]", "judged on", "sensitivity", "specificity", "seconds per step", "steps"
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How far two runs that should be the same program agree."""

    first: str
    second: str
    steps: int
    """Steps both have."""
    equal_batches: int
    """Steps whose batch digests are equal."""
    largest_loss_difference: float
    """Relative, over those steps."""
    largest_first_steps_difference: float
    """The same over the first ten steps, before rounding has grown."""


def summary_rows(runs: Sequence[RunResults]) -> list[tuple[str, ...]]:
    """Return one row of text per run, under `HEADER`."""
    return [
        (
            run.label,
            _auc(run),
            _judged(run.test),
            _percent(run.test, "sensitivity"),
            _percent(run.test, "specificity"),
            "not measured" if run.median_step_seconds is None else f"{run.median_step_seconds:.3f}",
            str(len(run.steps)),
        )
        for run in runs
    ]


def _auc(run: RunResults) -> str:
    if not run.config.trains_classifier:
        return "classifier not trained"
    if run.test is None:
        return "not evaluated"
    return with_interval(run.test["auc"]["macro"], run.test["ci95"]["auc"]["macro"])


def _judged(test: dict[str, Any] | None) -> str:
    """Return how many patients or cases the figures rest on; "-" where the file does not say."""
    if test is None or "rows" not in test or "aggregation" not in test:
        return "-"
    what = "case" if test["aggregation"] == "none" else "patient"
    return f"{test['rows']} {what}{'' if test['rows'] == 1 else 's'}"


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Write a figure for a person, with its interval's ends in so many digits if it has one."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")


def _percent(test: dict[str, Any] | None, key: str) -> str:
    value = None if test is None else test[key]["macro"]
    return "-" if value is None else f"{100 * value:.1f} %"


def agreements(runs: Sequence[RunResults]) -> list[Agreement]:
    """Pairs of runs that differ in the framework alone: they began with the very same weights."""
    pairs = []
    for i, first in enumerate(runs):
        for second in runs[i + 1 :]:
            if first.config.framework != second.config.framework and _same_but_framework(first, second):
                pairs.append(_agreement(first, second))
    return pairs


def _same_but_framework(first: RunResults, second: RunResults) -> bool:
    """Compare with care: each framework has its own versions, and from the same seed or the same published file
    draws other weights."""
    alone = [
        replace(run.config, framework="torch", versions={}, initial_weights=None, pretrained=None)
        for run in (first, second)
    ]
    return alone[0] == alone[1] and first.beginning == second.beginning != ""


def _agreement(first: RunResults, second: RunResults) -> Agreement:
    both = list(zip(first.steps, second.steps, strict=False))
    differences = [abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), 1e-12) for a, b in both]
    return Agreement(
        first=first.label,
        second=second.label,
        steps=len(both),
        equal_batches=sum(a["batch_digest"] == b["batch_digest"] for a, b in both),
        largest_loss_difference=max(differences, default=0.0),
        largest_first_steps_difference=max(differences[:10], default=0.0),
    )


def agreement_lines(runs: Sequence[RunResults]) -> list[str]:
    """Return the agreements as sentences, for a terminal."""
    return [
        f"{pair.first} and {pair.second}: {pair.equal_batches} of {pair.steps} batches equal, losses differ by at most "
        f"{pair.largest_first_steps_difference:.0e} in the first ten steps, {pair.largest_loss_difference:.0e} in all"
        for pair in agreements(runs)
    ]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces, for a terminal."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
