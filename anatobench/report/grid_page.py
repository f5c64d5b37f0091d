"""The page of the experiments grid: every result beside the paper's, what supervision gains, do the frameworks agree.

It takes the record that `experiments grid collect` writes and that record's tables as text, so that the numbers on the
page, in the terminal and in the CSV file are worded once. Of the record it reads, per entry of `results`: `table`,
`class`, `framework`, `mean`, `low`, `high` (None for one seed) and `published` (None where the paper has no number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anatobench import __version__
from anatobench.experiments.results import FRAMEWORK_NAMES, TextTable
from anatobench.report.html_parts import folded, html_page, legend, not_there, notes, pictures, table
from anatobench.report.plots import COLOURS, PANEL_INCHES, PANEL_REM, image, mean_and_interval, panel, wrapped

TITLE = "The paper's experiments, beside the paper"
UNITS = "AUC is in per cent, differences in AUC points; intervals are 95 % over seeds (Student's t)."
MACRO = "macro"
PAPER_COLOUR = "#6b6f76"
_SHIFT = {"torch": -0.14, "jax": 0.14}
_ROW_INCHES = 0.34


def build_grid_page(
    record: Mapping[str, Any], results: TextTable, gains: TextTable, frameworks: TextTable, remarks: Sequence[str]
) -> str:
    """Return the whole page. `results` has one row per entry of `record["results"]`, in its order, with the columns
    `table`, `framework` and `class`, and between the first two what names a condition; `remarks` are what the marks
    [1], [2], ... in the tables stand for."""
    column = list(results.header).index("class")
    macro = [row for row in results.rows if row[column] == MACRO]
    classes = [row for row in results.rows if row[column] != MACRO]
    numbered = [f"[{number}] {remark}" for number, remark in enumerate(remarks, start=1)]
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    sections = {
        "AUC of every condition": _plots(record, results) + table(results.header, macro),
        "What segmentation supervision gains": table(*gains),
        "JAX minus PyTorch": table(*frameworks),
        "Every class": folded("AUC per class", table(results.header, classes)),
        "What is known against the paper's numbers": notes(numbered),
        "Not there": not_there(record),
    }
    remark = f"{UNITS} AnatoBench {__version__}. {versions}"
    return html_page(TITLE, sections, remark=remark, warning=_left_out(record))


def _left_out(record: Mapping[str, Any]) -> str:
    """Say of which data sets the paper's numbers are left out, and why."""
    synthetic = record.get("synthetic", ())
    tiny = [dataset for dataset, size in record.get("sizes", {}).items() if size != "full"]
    said = [(synthetic, "synthetic cohort, drawn by a program, no patient's"), (tiny, "tiny models on tiny scans")]
    sentences = [f"{', '.join(datasets)}: {what}." for datasets, what in said if datasets]
    if sentences:
        sentences.append("The paper's numbers are not about these and are left out.")
    return " ".join(sentences)


def _plots(record: Mapping[str, Any], results: TextTable) -> str:
    """Return a plot per table of the paper and data set: both frameworks' macro AUC with intervals, and the paper's."""
    framework = list(results.header).index("framework")
    plots: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row, words in zip(record["results"], results.rows, strict=True):
        if row["class"] == MACRO:
            table_name, dataset, *condition = words[:framework]
            name = f"Table {table_name.removeprefix('Table ')}, {dataset}"
            plots.setdefault(name, {}).setdefault(", ".join(condition), []).append(row)
    drawn = pictures((_plot(name, conditions) for name, conditions in plots.items()), PANEL_REM)
    key = [(FRAMEWORK_NAMES[framework], colour, "line") for framework, colour in COLOURS.items()]
    return legend([*key, ("the paper (diamond)", PAPER_COLOUR, "patch")]) + drawn if drawn else ""


def _plot(name: str, conditions: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    described = []
    inches = (PANEL_INCHES[0], 0.9 + _ROW_INCHES * len(conditions))
    with panel(name, "test AUC, macro, per cent", "", inches) as (figure, axes):
        axes.grid(visible=False, axis="y")
        for position, (condition, rows) in enumerate(conditions.items()):
            for row in rows:
                framework = row["framework"]
                mean_and_interval(axes, row, position + _SHIFT[framework], COLOURS[framework], markersize=4)
                described.append(f"{condition}, {FRAMEWORK_NAMES[framework]} {100 * row['mean']:.1f}")
            published = next((row["published"] for row in rows if row["published"] is not None), None)
            if published is not None:
                axes.plot(100 * published, position, "D", color=PAPER_COLOUR, markersize=5, fillstyle="none")
                described.append(f"{condition}, paper {100 * published:.1f}")
        axes.set_yticks(range(len(conditions)), [wrapped(condition, 26) for condition in conditions], fontsize=7.5)
        axes.invert_yaxis()
    return f"<figure>{image(figure, f'Macro AUC of {name}: ' + '; '.join(described))}</figure>"
