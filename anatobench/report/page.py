"""One HTML page that needs no network and no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from anatobench import __version__
from anatobench.report.plots import learning_curves, roc_plots
from anatobench.report.run_results import RunResults
from anatobench.report.slices import example_slices
from anatobench.report.summary import HEADER, agreements, summary_rows

STYLESHEET = """
:root { color-scheme: light; --ink: #1c2126; --soft: #5b6670; --line: #dde2e7; --paper: #fff; --wash: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } .pass { color: #14713d; } .fail { color: #b3261e; font-weight: 600; }
details { background: var(--wash); border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem;
  margin: .5rem 0; } pre { overflow-x: auto; font-size: .8rem; margin: .5rem 0; } summary { cursor: pointer; }
"""


def build_page(runs: Sequence[RunResults], parity: Mapping[str, Any] | None = None, title: str = "AnatoBench") -> str:
    """The whole page as text.

    `parity` is what `anatobench parity --json` printed, or None if it was not run.
    """
    sections = [
        _header(runs, title),
        _section("Results", _table(HEADER, summary_rows(runs)) + _reading(runs)),
        _section("Do the two frameworks agree?", _parity(parity) + _agreement(runs)),
        _section("Learning curves", learning_curves(runs)),
        _section("ROC curves, test split", roc_plots(runs)),
        _section("Scans and organs", example_slices(runs)),
        _section("Every class", _class_table(runs)),
        _section("Configurations", _configurations(runs)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLESHEET}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _header(runs: Sequence[RunResults], title: str) -> str:
    config = runs[0].config
    facts = f"{config.model} ({config.size}) on {config.task.name}, AnatoBench {__version__}"
    versions = sorted({f"{name} {version}" for run in runs for name, version in run.config.versions.items()})
    return (
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>"
        f'<p class="soft">{html.escape(", ".join(versions))}</p></header>'
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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
    return f"<p>Parity ladder in float64: {verdict}.</p>" + _table(("rung", "largest relative error", "bound"), rows)


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
    return _table(header, rows) if rows else ""


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
    return _table(("test AUC", *(run.label for run in tested)), rows)


def _configurations(runs: Sequence[RunResults]) -> str:
    return "".join(
        f"<details><summary>{html.escape(run.label)}</summary>"
        f"<pre>{html.escape(json.dumps(run.config.to_json(), indent=2))}</pre></details>"
        for run in runs
    )
