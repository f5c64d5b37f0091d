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
from anatobench.experiments.auc_study import AucStudy, Cell, learning_rate_of
from anatobench.experiments.published import published_gain
from anatobench.experiments.statistics import equivalence_of, interval_of
from anatobench.recipes import FRAMEWORKS
from anatobench.system.json_text import parse_json
from anatobench.training.loop import SESSIONS_FILE
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import RunConfig, evaluation_file

FORMAT = 1
POOLED = "all"
DIFFERENCES = {"JAX - PyTorch": "framework_difference", "PyTorch nudged - PyTorch": "control_difference"}
"""What the tables call a list of the record."""
DIFFERENCE_HEADER = ("difference", "pairs", "mean [95 % interval], AUC points", "p (two one-sided)", "verdict")
GAIN_HEADER = ("with - without segmentation", "pairs", "mean [95 % interval], AUC points", "the paper's, AUC points")
AUC_HEADER = ("model", "segmentation", "framework", "test AUC of each seed", "mean")


def collect(study: AucStudy, out: Path) -> dict[str, Any]:
    """The record; `AnatoBenchError` if a run is missing."""
    cells = {cell: _read(cell, out) for cell in study.cells}
    auc = {cell: found["auc"]["macro"] for cell, found in cells.items()}
    config = RunConfig.read(study.cells[0].folder(out))
    sessions = (study.cells[0].folder(out) / SESSIONS_FILE).read_text().splitlines()
    versions: dict[str, str] = {}
    for framework in FRAMEWORKS:
        cell = next(cell for cell in study.cells if cell.framework == framework)
        versions |= RunConfig.read(cell.folder(out)).versions
    return {
        "kind": "auc_study",
        "format": FORMAT,
        "study": study.to_json(),
        "recipe": {
            **asdict(config.recipe),
            "learning_rate": {model: learning_rate_of(study, model) for model in study.models},
            "seed": "per run",
            "segmentation_weight": "1 or 0",
        },
        "cells": [
            {
                **asdict(cell),
                "auc": cells[cell]["auc"],
                "ci95": cells[cell]["ci95"]["auc"],
                "training_s": _training_seconds(cell.folder(out)),
            }
            for cell in cells
        ],
        "framework_difference": _differences(study, auc, FRAMEWORKS[1], nudged=False),
        "control_difference": _differences(study, auc, FRAMEWORKS[0], nudged=True),
        "segmentation_gain": _segmentation_gains(study, auc),
        "versions": versions,
        "device": parse_json(sessions[0])["device"]["name"],
    }


def _training_seconds(run: Path) -> float:
    """What its steps took, however often the run was stopped."""
    return round(sum(record["seconds"] for record in read_records(run) if record["kind"] == "step"), 1)


def _read(cell: Cell, out: Path) -> dict[str, Any]:
    path = cell.folder(out) / evaluation_file("test")
    try:
        found: dict[str, Any] = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path}: no result of this run ({error}): run the study again") from None
    if found["auc"]["macro"] is None:
        raise AnatoBenchError(f"{path}: the AUC is undefined: the cohort is too small, give more --cases")
    return found


def _differences(study: AucStudy, auc: Mapping[Cell, float], framework: str, nudged: bool) -> list[dict[str, Any]]:
    """Of such runs and the first one of their group; per model and head, and pooled over all of them."""
    found: dict[tuple[str, bool], list[float]] = {}
    for first, *others in study.groups:
        for cell in others:
            if (cell.framework, cell.nudged) == (framework, nudged):
                found.setdefault((first.model, first.segmentation), []).append(auc[cell] - auc[first])
    rows = [
        {"model": model, "segmentation": segmentation, **_difference(differences, study.margin)}
        for (model, segmentation), differences in found.items()
    ]
    everything = [difference for differences in found.values() for difference in differences]
    return [*rows, {"model": POOLED, "segmentation": None, **_difference(everything, study.margin)}]


def _difference(differences: Sequence[float], margin: float) -> dict[str, Any]:
    return {**asdict(interval_of(differences)), **asdict(equivalence_of(differences, margin))}


def _segmentation_gains(study: AucStudy, auc: Mapping[Cell, float]) -> list[dict[str, Any]]:
    """Per model and framework, and per model over both."""
    rows = []
    for model in study.models:
        published = published_gain(study.task, model, pretrained=False)
        both = []
        for framework in FRAMEWORKS:
            gains = [
                auc[Cell(model, framework, True, seed)] - auc[Cell(model, framework, False, seed)]
                for seed in range(study.seeds)
            ]
            both.append(gains)
            rows.append({"model": model, "framework": framework, **asdict(interval_of(gains)), "paper": published})
        # The frameworks share weights and batches, so a seed counts once.
        means = [sum(pair) / len(pair) for pair in zip(*both, strict=True)]
        rows.append({"model": model, "framework": POOLED, **asdict(interval_of(means)), "paper": published})
    return rows


def difference_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under `DIFFERENCE_HEADER`: the frameworks', then the control's."""
    margin = f"{100 * record['study']['margin']:.0f}"
    verdicts = {None: "one seed: no test", True: f"equivalent within {margin}", False: f"not shown within {margin}"}
    return [
        (
            f"{difference}, {_name_of(row)}",
            str(row["count"]),
            _points(row),
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
    names = {POOLED: "both frameworks", "torch": "PyTorch", "jax": "JAX"}
    return [
        (
            f"{row['model']}, {names[row['framework']]}",
            str(row["count"]),
            _points(row),
            "-" if row["paper"] is None else f"{100 * row['paper']:+.1f}",
        )
        for row in record["segmentation_gain"]
    ]


def auc_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under `AUC_HEADER`."""
    groups: dict[tuple[str, bool, str], list[float]] = {}
    for cell in record["cells"]:
        arm = {"torch": "PyTorch", "jax": "JAX"}[cell["framework"]] + (" nudged" if cell["nudged"] else "")
        groups.setdefault((cell["model"], cell["segmentation"], arm), []).append(cell["auc"]["macro"])
    return [
        (model, "with" if segmentation else "without", arm, _listed(values), f"{sum(values) / len(values):.3f}")
        for (model, segmentation, arm), values in groups.items()
    ]


def _listed(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _points(row: Mapping[str, Any]) -> str:
    """In AUC points, hundredths of an AUC."""
    interval = "" if row["low"] is None else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['mean']:+.2f}{interval}"
