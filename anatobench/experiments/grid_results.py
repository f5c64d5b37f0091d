"""What the grid's runs found, beside the paper: as a record (JSON), as a CSV file and as tables.

Record, format 1, AUC as fractions:
- `grid`: the settings that all runs share (grid_runs.py);
- `results`: per table, condition, framework and class (`macro` is the mean over classes) the AUC of each seed with
  its mean and 95 % interval (`mean`, `low`, `high`, `count`), the paper's number (`published`, None where it has none,
  and `note`, what is known against it), and `difference` = ours - published with its interval;
- `gains`: per data set, model, initial weights and framework, macro AUC with minus without segmentation, paired by
  seed, the same way;
- `framework_differences`: per condition, JAX minus PyTorch, paired by seed;
- `missing`: cells that were not evaluated, `undefined`: evaluated ones whose macro AUC is undefined;
- `sizes`, by data set, and `synthetic`, the data sets that are a synthetic cohort: the paper's numbers, of size full on
  patients, stand beside no others;
- `versions`: of both frameworks' packages.

An interval is Student's t over seeds, None for a single one; that of an AUC ends at 0 and 1. It holds what the seed
moves (initial weights, order, crops, dropout), not which patients were tested, and the paper's numbers are taken as
exact: it prints no spread.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.experiments.grid import MACRO, TABLES, Condition, Selection
from anatobench.experiments.grid_runs import GridSettings
from anatobench.experiments.published import published_auc, published_gain
from anatobench.experiments.results import (
    FRAMEWORK_NAMES,
    Results,
    TextTable,
    paired_difference,
    points,
    read_results,
)
from anatobench.experiments.runs import DONE, run_folder, state_of
from anatobench.experiments.statistics import interval_of_shares
from anatobench.recipes import FRAMEWORKS

FORMAT = 1


def collect(selection: Selection, settings: GridSettings, out: Path) -> dict[str, Any]:
    """Return the record of what is there; `AnatoBenchError` if nothing is, or if a result cannot be read."""
    runs = {cell: run_folder(out, cell.name) for cell in selection.cells if state_of(out, cell.name) == DONE}
    if not runs:
        raise AnatoBenchError(f"{out}: none of the {len(selection.cells)} runs asked for is done: see `grid list`")
    found = read_results(runs)
    return {
        "format": FORMAT,
        "grid": {**asdict(settings), "settings": list(settings.settings)},
        "results": list(_results(selection, found)),
        "gains": list(_gains(selection, found)),
        "framework_differences": [
            {**asdict(condition), **difference}
            for condition in selection.all_conditions
            if (difference := paired_difference(*(found.auc(condition, one) for one in reversed(FRAMEWORKS))))
        ],
        "missing": [cell.name for cell in selection.cells if cell not in runs],
        "undefined": [cell.name for cell, run in found.evaluations.items() if run["auc"][MACRO] is None],
        "sizes": found.sizes,
        "synthetic": list(found.synthetic),
        "versions": found.versions,
    }


def _results(selection: Selection, found: Results) -> Iterable[dict[str, Any]]:
    for table in selection.tables:
        for condition in selection.conditions(table):
            classes = TABLES[table].get(condition, {})
            paper = classes if found.beside_the_paper(condition.dataset) else {}
            for framework in selection.frameworks:
                for name in classes or (MACRO,):
                    auc, one = found.auc(condition, framework, name), paper.get(name)
                    if auc:
                        yield {
                            "table": table,
                            **asdict(condition),
                            "framework": framework,
                            "class": name,
                            "auc": {str(seed): value for seed, value in auc.items()},
                            **_beside(asdict(interval_of_shares(list(auc.values()))), one.auc if one else None),
                            "note": one.note if one else "",
                        }


def _beside(ours: Mapping[str, Any], published: float | None) -> dict[str, Any]:
    """Return ours, the paper's and their difference, whose interval is only shifted: the paper's is a constant."""
    named = {"difference": ours["mean"], "difference_low": ours["low"], "difference_high": ours["high"]}
    shifted = {name: None if end is None or published is None else end - published for name, end in named.items()}
    return {**ours, "published": published, **shifted}


def _gains(selection: Selection, found: Results) -> Iterable[dict[str, Any]]:
    """Return the gains of Table 1's pairs."""
    for condition in selection.all_conditions:
        pair: dict[str, Any] = {name: getattr(condition, name) for name in ("dataset", "model", "pretrained")}
        for framework in () if condition.supervised else selection.frameworks:
            gain = paired_difference(found.auc(Condition(**pair), framework), found.auc(condition, framework))
            if gain:
                compared = found.beside_the_paper(condition.dataset)
                papers = [published_auc(**pair, segmentation=arm) for arm in (False, True) if compared]
                yield {
                    **pair,
                    "framework": framework,
                    **_beside(gain, published_gain(**pair) if compared else None),
                    "note": "; ".join(paper.note for paper in papers if paper is not None and paper.note),
                }


def csv_text(record: Mapping[str, Any]) -> str:
    """`results` as CSV: one line per table, condition, framework and class."""
    rows = [
        {**row, "organs": " ".join(row["organs"]), "auc": " ".join(str(value) for value in row["auc"].values())}
        for row in record["results"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["table"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Return what is known against the paper's numbers, in the order in which the tables mark them, [1] first."""
    return list(dict.fromkeys(row["note"] for row in (*record["results"], *record["gains"]) if row["note"]))


def result_table(record: Mapping[str, Any]) -> TextTable:
    """Return a row per entry of `results`, in their order."""
    header = ("table", "data set", "model", "weights", "supervision", "framework", "class", "seeds",
              "AUC, %", "paper, %", "difference, points")  # fmt: skip
    return TextTable(header, [
        (row["table"], *_model_words(row), supervision_words(row), FRAMEWORK_NAMES[row["framework"]], row["class"],
         *_number_words(row, record, signed=False))
        for row in record["results"]
    ])  # fmt: skip


def gain_table(record: Mapping[str, Any]) -> TextTable:
    """Return what segmentation supervision gains."""
    header = ("data set", "model", "weights", "framework", "seeds", "gain by segmentation, points", "paper, points",
              "difference, points")  # fmt: skip
    return TextTable(header, [
        (*_model_words(row), FRAMEWORK_NAMES[row["framework"]], *_number_words(row, record, signed=True))
        for row in record["gains"]
    ])  # fmt: skip


def framework_table(record: Mapping[str, Any]) -> TextTable:
    """Return how far the frameworks are apart."""
    header = ("data set", "model", "weights", "supervision", "seeds", "JAX - PyTorch, points")
    return TextTable(header, [
        (*_model_words(row), supervision_words(row), str(row["count"]), points(row))
        for row in record["framework_differences"]
    ])  # fmt: skip


def supervision_words(row: Mapping[str, Any]) -> str:
    """Return a condition's supervision for a person, as "kidney_left + kidney_right only"."""
    if row["segmentation_weight"] == 0:
        return "none"
    parts = (
        f"{' + '.join(row['organs'])} only" if row["organs"] else "all organs",
        "" if row["segmentation_weight"] == 1 else f"weight {row['segmentation_weight']:g}",
        f"{row['boundary_distortion']:g} % of boundaries distorted" if row["boundary_distortion"] else "",
        {"ce": "", "dice": "Dice", "ce_dice": "CE + Dice"}[row["segmentation_loss"]],
    )
    return ", ".join(part for part in parts if part)


def _model_words(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["model"], "pretrained" if row["pretrained"] else "scratch"


def _number_words(row: Mapping[str, Any], record: Mapping[str, Any], signed: bool) -> tuple[str, ...]:
    """Return seeds, ours, the paper's, the difference."""
    mark = f" [{notes_of(record).index(row['note']) + 1}]" if row["note"] else ""
    published = "-" if row["published"] is None else f"{100 * row['published']:{'+' if signed else ''}.2f}{mark}"
    difference = {"mean": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
    return str(row["count"]), points(row, signed), published, points(difference)
