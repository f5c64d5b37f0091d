"""One HTML page that needs no network and no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from anatobench import __version__
from anatobench.report.html_parts import html_page, section, table
from anatobench.report.plots import learning_curves, roc_plots
from anatobench.report.run_results import RunResults
from anatobench.report.slices import example_slices
from anatobench.report.summary import HEADER, agreements, summary_rows


def build_page(runs: Sequence[RunResults], parity: Mapping[str, Any] | None = None, title: str = "AnatoBench") -> str:
    """The whole page as text.

    `parity` is what `anatobench parity --json` printed, or None if it was not run.
    """
    sections = [
        _header(runs, title),
        section("Results", table(HEADER, summary_rows(runs)) + _reading(runs)),
        section("Do the two frameworks agree?", _parity(parity) + _agreement(runs)),
        section("Learning curves", learning_curves(runs)),
        section("ROC curves, test split", roc_plots(runs)),
        section("Scans and organs", example_slices(runs)),
        section("Every class", _class_table(runs)),
        section("Configurations", _configurations(runs)),
    ]
    return html_page(title, sections)


def _header(runs: Sequence[RunResults], title: str) -> str:
    config = runs[0].config
    facts = f"{config.model} ({config.size}) on {config.task.name}, AnatoBench {__version__}"
    versions = sorted({f"{name} {version}" for run in runs for name, version in run.config.versions.items()})
    return (
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>"
        f'<p class="soft">{html.escape(", ".join(versions))}</p></header>'
    )


def _reading(runs: Sequence[RunResults]) -> str:
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return ""
    undefined = sorted({name for test in tested for name in test.get("undefined", {})})
    text = "AUC is the macro average over classes; intervals are 95 % bootstrap intervals over patients."
    if undefined:
        text += f" Undefined here, because the test split has one label value only: {', '.join(undefined)}."
    return f'<p class="soft">{html.escape(text)}</p>'


def _parity(parity: Mapping[str, Any] | None) -> str:
    if parity is None:
        return '<p class="soft">The parity ladder was not run for this report.</p>'
    verdict = (
        '<span class="pass">passed</span>'
        if parity["passed"]
        else '<span class="fail">FAILED: do not trust this</span>'
    )
    rows = [
        (name, f"{error:.1e}", f"{parity['tolerance']:.0e}")
        for name, error in parity["max_rel_error"].items()
        if error is not None
    ]
    return f"<p>Parity ladder in float64: {verdict}.</p>" + table(("rung", "largest relative error", "bound"), rows)


def _agreement(runs: Sequence[RunResults]) -> str:
    rows = [
        (
            f"{pair.first} / {pair.second}",
            f"{pair.equal_batches} of {pair.steps}",
            f"{pair.largest_first_steps_difference:.1e}",
            f"{pair.largest_loss_difference:.1e}",
        )
        for pair in agreements(runs)
    ]
    header = ("runs", "equal batches", "loss difference, first ten steps", "loss difference, all steps")
    return table(header, rows) if rows else ""


def _class_table(runs: Sequence[RunResults]) -> str:
    tested = [run for run in runs if run.test is not None]
    if not tested:
        return ""
    rows = []
    for name in tested[0].config.task.class_names:
        cells = []
        for run in tested:
            assert run.test is not None
            value = run.test["auc"].get(name)
            interval = run.test["ci95"]["auc"].get(name)
            text = "undefined" if value is None else f"{value:.3f}"
            cells.append(text if not interval else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]")
        rows.append((name.replace("_", " "), *cells))
    return table(("test AUC", *(run.label for run in tested)), rows)


def _configurations(runs: Sequence[RunResults]) -> str:
    return "".join(
        f"<details><summary>{html.escape(run.label)}</summary>"
        f"<pre>{html.escape(json.dumps(run.config.to_json(), indent=2))}</pre></details>"
        for run in runs
    )
