"""The table that a demo prints and a report opens with, and what says that the runs are comparable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from anatobench.evaluation.evaluation_file import judged_on
from anatobench.report.run_results import RunResults


class Agreement(NamedTuple):
    """How far two runs that should be the same program agree, over the steps that both have."""

    first: str
    second: str
    steps: int
    equal_batches: int
    """Steps whose batch digests are equal."""
    largest_loss_difference: float
    """Relative."""
    largest_first_steps_difference: float
    """The same over the first ten steps, before rounding has grown."""


def _auc(run: RunResults) -> str:
    if not run.config.trains_classifier:
        return "classifier not trained"
    if run.test is None:
        return "not evaluated"
    return with_interval(run.test["auc"]["macro"], run.test["ci95"]["auc"]["macro"])


def _judged(run: RunResults) -> str:
    """Return how many patients or cases the figures rest on; "-" where the file does not say."""
    return "-" if run.test is None else judged_on(run.test) or "-"


def _percent(run: RunResults, key: str) -> str:
    value = None if run.test is None else run.test[key]["macro"]
    return "-" if value is None else f"{100 * value:.1f} %"


COLUMNS: dict[str, Callable[[RunResults], str]] = {
    "run": lambda run: run.label,
    "test AUC, macro [95 % interval]": _auc,
    "judged on": _judged,
    "sensitivity": lambda run: _percent(run, "sensitivity"),
    "specificity": lambda run: _percent(run, "specificity"),
    "seconds per step": lambda run: "not measured" if (s := run.median_step_seconds) is None else f"{s:.3f}",
    "steps": lambda run: str(len(run.steps)),
}
HEADER = tuple(COLUMNS)


def summary_rows(runs: Sequence[RunResults]) -> list[tuple[str, ...]]:
    """Return one row of text per run, under `HEADER`."""
    return [tuple(cell(run) for cell in COLUMNS.values()) for run in runs]


def with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Write a figure for a person, with its interval's ends in so many digits if it has one."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")


def agreements(runs: Sequence[RunResults]) -> list[Agreement]:
    """Pairs of runs that differ in the framework alone: they began with the very same weights."""
    pairs = combinations(runs, 2)
    return [_agreement(*pair) for pair in pairs if _differ_in_the_framework_alone(*pair)]


def _differ_in_the_framework_alone(first: RunResults, second: RunResults) -> bool:
    """Compare with care: each framework has its own versions, and from the same seed or the same published file
    draws other weights."""
    if first.config.framework == second.config.framework:
        return False
    alone = [
        replace(run.config, framework="torch", versions={}, initial_weights=None, pretrained=None)
        for run in (first, second)
    ]
    return alone[0] == alone[1] and first.beginning == second.beginning != ""


def _agreement(first: RunResults, second: RunResults) -> Agreement:
    both = list(zip(first.steps, second.steps, strict=False))
    differences = [abs(a["loss"] - b["loss"]) / max(abs(a["loss"]), 1e-12) for a, b in both]
    equal = sum(a["batch_digest"] == b["batch_digest"] for a, b in both)
    largest, among_the_first = max(differences, default=0.0), max(differences[:10], default=0.0)
    return Agreement(first.label, second.label, len(both), equal, largest, among_the_first)


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
