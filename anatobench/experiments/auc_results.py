"""What the AUC study found, as a record (JSON) and as tables.

Record, format 1: `study` (the settings), `cells` (every run with its test AUC), `framework_difference` and
`control_difference` (per model and head, and pooled) and `segmentation_gain` (per model and framework, and both), all
of them differences of macro AUC over seeds, `versions`, `device`; a cell's `training_s` are the
seconds that its steps took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.experiments.auc_study import AucStudy, name_of
from anatobench.experiments.grid import MACRO, Condition
from anatobench.experiments.published import published_gain
from anatobench.experiments.results import FRAMEWORK_NAMES, Results, paired, points, read_results
from anatobench.experiments.runs import run_folder
from anatobench.experiments.statistics import equivalence_of, interval_of
from anatobench.recipes import FRAMEWORKS
from anatobench.system.json_text import parse_json
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import RunConfig
from anatobench.training.sessions import SESSIONS_FILE

FORMAT = 1
POOLED = "all"
DIFFERENCES = {"JAX - PyTorch": "framework_difference", "PyTorch nudged - PyTorch": "control_difference"}
"""What the tables call a list of the record."""
DIFFERENCE_HEADER = ("difference", "pairs", "mean [95 % interval], AUC points", "p (two one-sided)", "verdict")
GAIN_HEADER = ("with - without segmentation", "pairs", "mean [95 % interval], AUC points")
AUC_HEADER = ("model", "segmentation", "framework", "test AUC of each seed", "mean")


def collect(study: AucStudy, out: Path) -> dict[str, Any]:
    """Return the record; `AnatoBenchError` if a run is missing."""
    folders = {cell: run_folder(out, name_of(cell)) for cell in study.cells}
    found = read_results(folders)
    for cell, evaluation in found.evaluations.items():
        if evaluation["auc"][MACRO] is None:
            raise AnatoBenchError(f"{folders[cell]}: the AUC is undefined: the cohort is too small, give more --cases")
    first = folders[study.cells[0]]
    reference, candidate = FRAMEWORKS
    return {
        "kind": "auc_study",
        "format": FORMAT,
        "study": study.to_json(),
        "recipe": {
            **asdict(RunConfig.read(first).recipe),
            "learning_rate": {model: study.learning_rate_of(model) for model in study.models},
            "seed": "per run",
            "segmentation_weight": "1 or 0",
        },
        "cells": [
            {
                "model": cell.condition.model,
                "framework": cell.framework,
                "segmentation": _supervised(cell.condition),
                "seed": cell.seed,
                "nudged": cell.nudged,
                "auc": evaluation["auc"],
                "ci95": evaluation["ci95"]["auc"],
                "training_s": _training_seconds(folders[cell]),
            }
            for cell, evaluation in found.evaluations.items()
        ],
        "framework_difference": _differences(study, found, candidate, nudged=False),
        "control_difference": _differences(study, found, reference, nudged=True),
        "segmentation_gain": _segmentation_gains(study, found),
        "versions": found.versions,
        "device": parse_json((first / SESSIONS_FILE).read_text().splitlines()[0])["device"]["name"],
    }


def _supervised(condition: Condition) -> bool:
    return condition.segmentation_weight > 0


def _training_seconds(run: Path) -> float:
    """Return what its steps took, however often the run was stopped."""
    return round(sum(float(record["seconds"]) for record in read_records(run) if record["kind"] == "step"), 1)


def _differences(study: AucStudy, found: Results, framework: str, nudged: bool) -> list[dict[str, Any]]:
    """Return the differences of such runs and the first framework's; per model and head, and pooled over all of
    them."""
    pairs = {
        condition: paired(found.auc(condition, framework, nudged=nudged), found.auc(condition, FRAMEWORKS[0]))
        for condition in study.conditions
    }
    rows = [
        {
            "model": condition.model,
            "segmentation": _supervised(condition),
            **_difference(list(differences.values()), study.margin),
        }
        for condition, differences in pairs.items()
    ]
    everything = [difference for differences in pairs.values() for difference in differences.values()]
    return [*rows, {"model": POOLED, "segmentation": None, **_difference(everything, study.margin)}]


def _difference(differences: Sequence[float], margin: float) -> dict[str, Any]:
    return {**asdict(interval_of(differences)), **asdict(equivalence_of(differences, margin))}


def _segmentation_gains(study: AucStudy, found: Results) -> list[dict[str, Any]]:
    """Per model and framework, and per model over both."""
    rows = []
    for with_head, without in zip(study.conditions[::2], study.conditions[1::2], strict=True):
        model = with_head.model
        published = published_gain(study.task, model, pretrained=False)
        both = [
            paired(found.auc(with_head, framework), found.auc(without, framework)).values() for framework in FRAMEWORKS
        ]
        # The frameworks share weights and batches, so a seed counts once.
        means = [sum(pair) / len(pair) for pair in zip(*both, strict=True)]
        for framework, gains in (*zip(FRAMEWORKS, both, strict=True), (POOLED, means)):
            rows.append(
                {"model": model, "framework": framework, **asdict(interval_of(list(gains))), "paper": published}
            )
    return rows


def difference_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under `DIFFERENCE_HEADER`: the frameworks', then the control's."""
    margin = f"{100 * record['study']['margin']:.0f}"
    verdicts = {None: "one seed: no test", True: f"equivalent within {margin}", False: f"not shown within {margin}"}
    return [
        (
            f"{difference}, {_name_of(row)}",
            str(row["count"]),
            points(row),
            "-" if row["p_value"] is None else f"{row['p_value']:.2g}",
            verdicts[row["equivalent"]],
        )
        for difference, kind in DIFFERENCES.items()
        for row in record[kind]
    ]


def _name_of(row: Mapping[str, Any]) -> str:
    if row["model"] == POOLED:
        return "all pairs"
    return f"{row['model']} {'with' if row['segmentation'] else 'without'} segmentation"


def gain_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under `GAIN_HEADER`."""
    names = {POOLED: "both frameworks", **FRAMEWORK_NAMES}
    return [
        (
            f"{row['model']}, {names[row['framework']]}",
            str(row["count"]),
            points(row),
        )
        for row in record["segmentation_gain"]
    ]


def auc_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under `AUC_HEADER`."""
    groups: dict[tuple[str, bool, str], list[float]] = {}
    for cell in record["cells"]:
        arm = FRAMEWORK_NAMES[cell["framework"]] + (" nudged" if cell["nudged"] else "")
        groups.setdefault((cell["model"], cell["segmentation"], arm), []).append(cell["auc"]["macro"])
    return [
        (model, "with" if segmentation else "without", arm, _listed(values), f"{sum(values) / len(values):.3f}")
        for (model, segmentation, arm), values in groups.items()
    ]


def _listed(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
