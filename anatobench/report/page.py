"""One HTML page that needs no network and no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from anatobench import __version__
from anatobench.evaluation.few_cases import few_cases_note
from anatobench.parity.ladder import KINDS
from anatobench.report.beside_paper import beside_benchmark, beside_paper, class_table, dice_table
from anatobench.report.curves import learning_curves, training_dynamics
from anatobench.report.head_difference import head_differences
from anatobench.report.html_parts import folded, html_page, paragraph, table
from anatobench.report.reliability import probabilities_section
from anatobench.report.roc import roc_plots
from anatobench.report.run_results import SPLIT, RunResults
from anatobench.report.setting import setting, speed, synthetic_notice
from anatobench.report.slices import example_slices
from anatobench.report.summary import HEADER, agreements, summary_rows
from anatobench.report.worst import worst_cases


def build_page(runs: Sequence[RunResults], parity: Mapping[str, Any] | None = None, title: str | None = None) -> str:
    """Return the whole page as text; `parity` is what `anatobench parity --json` printed, None if it was not run. The
    title names the runs' task unless one is given."""
    versions = sorted({f"{name} {version}" for run in runs for name, version in run.config.versions.items()})
    models = ", ".join(dict.fromkeys(f"{run.config.model} ({run.config.size})" for run in runs))
    facts = f"{models} on {runs[0].config.task.name}, AnatoBench {__version__}"
    configurations = ((run.label, json.dumps(run.config.to_json(), indent=2)) for run in runs)
    sections = {
        "What ran": setting(runs),
        "Results": table(HEADER, summary_rows(runs)) + _reading(runs),
        "What does the segmentation head change?": head_differences(runs),
        "Do the two frameworks agree?": _parity(parity) + _agreement(runs),
        "Speed": speed(runs),
        "Beside the paper": beside_paper(runs),
        "Beside MedMNIST's benchmark": beside_benchmark(runs),
        "Learning curves": learning_curves(runs),
        "Training dynamics": training_dynamics(runs),
        "ROC curves, test split": roc_plots(runs),
        "Are the probabilities true?": probabilities_section(runs),
        "Every class": class_table(runs),
        "Scans and organs": example_slices(runs),
        "Organ Dice": dice_table(runs),
        "Worst cases": worst_cases(runs),
        "Configurations": "".join(folded(name, f"<pre>{html.escape(text)}</pre>") for name, text in configurations),
    }
    title = title or f"AnatoBench: {runs[0].config.task.name}"
    return html_page(title, sections, facts, ", ".join(versions), synthetic_notice(runs))


def _reading(runs: Sequence[RunResults]) -> str:
    tested = [run.test for run in runs if run.test is not None]
    if not tested:
        return ""
    text = "AUC is the macro average over classes; intervals are 95 % bootstrap intervals over patients."
    undefined = dict[str, dict[str, None]]()
    for test in tested:
        for name, reason in test.get("undefined", {}).items():
            undefined.setdefault(reason, {})[name] = None
    if undefined:
        told = [f"{', '.join(sorted(names))} ({reason})" for reason, names in sorted(undefined.items())]
        text += f" Undefined: {'; '.join(told)}."
    return paragraph(text, _checkpoints(runs), *dict.fromkeys(map(_thresholds, tested)), few_cases_note(*tested))


def _checkpoints(runs: Sequence[RunResults]) -> str:
    """Say which weights were judged; nothing where no evaluation says it."""
    judged = [
        f"{run.label} after step {run.test['step']} of {len(run.steps)}"
        for run in runs
        if run.test is not None and "step" in run.test
    ]
    return f"Weights judged, the best on validation, else the last: {'; '.join(judged)}." if judged else ""


def _thresholds(test: Mapping[str, Any]) -> str:
    """Say how sensitivity and specificity came about; nothing where an old evaluation does not say it."""
    rule, split = test.get("threshold_rule"), test.get("threshold_split")
    if not rule or not split:
        return ""
    flattered = ", the one that is judged, which flatters both" if split == SPLIT else ""
    return f"Sensitivity and specificity are at thresholds chosen by {rule} on the {split} split{flattered}."


def _parity(parity: Mapping[str, Any] | None) -> str:
    if parity is None:
        return paragraph("The parity ladder was not run for this report.")
    kind, word = ("pass", "passed") if parity["passed"] else ("fail", "FAILED: do not trust this")
    verdict = f'<span class="{kind}">{word}</span>'
    rows = [
        (name, KINDS.get(name, "the scores of this head"), f"{error:.1e}", f"{parity['tolerance']:.0e}")
        for name, error in parity["max_rel_error"].items()
        if error is not None
    ]
    ladder = f"Parity ladder in {parity.get('dtype', 'float64')}"
    if "model" in parity:
        steps = f"{parity['steps']} optimizer steps" if parity.get("steps") else "one pass"
        ladder += f", {parity['model']} ({parity.get('size', '')}) on {parity.get('task', '')}, {steps}"
    columns = ("rung", "what is compared", "largest relative error", "bound")
    return f"<p>{html.escape(ladder)}: {verdict}.</p>" + table(columns, rows)


def _agreement(runs: Sequence[RunResults]) -> str:
    rows = [
        (f"{pair.first} / {pair.second}", f"{pair.equal_batches} of {pair.steps}",
         f"{pair.largest_first_steps_difference:.1e}", f"{pair.largest_loss_difference:.1e}")
        for pair in agreements(runs)
    ]  # fmt: skip
    columns = ("runs", "equal batches", "loss difference, first ten steps", "loss difference, all steps")
    none = "<p>No two of these runs began with the same weights and differ in the framework alone.</p>"
    return table(columns, rows) or none
