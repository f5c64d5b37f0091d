"""What evaluated runs say, for the records of the grid and of the AUC study: AUC by seed, and paired differences."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import Evaluation, read_evaluation
from anatobench.experiments.grid import MACRO, Cell, Condition
from anatobench.recipes import FRAMEWORKS
from anatobench.training.metrics_records import read_records
from anatobench.training.run_folder import RunConfig
from anatobench.training.sessions import trained_on_synthetic

FRAMEWORK_NAMES = dict(zip(FRAMEWORKS, ("PyTorch", "JAX"), strict=True))


class TextTable(NamedTuple):
    """A table as the terminal and the page show it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Results:
    """The evaluated runs of a folder."""

    configs: Mapping[Cell, RunConfig]
    evaluations: Mapping[Cell, Evaluation]
    """What `anatobench evaluate` wrote."""
    versions: Mapping[str, str]
    """Of both frameworks' packages, when the runs began."""
    sizes: Mapping[str, str]
    """`full` or `tiny`, by data set."""
    synthetic: tuple[str, ...] = ()
    """The data sets of which a run was trained on a synthetic cohort."""

    def beside_the_paper(self, dataset: str) -> bool:
        """Return whether the paper's figures are about such runs: full-size models on patients."""
        return self.sizes[dataset] == "full" and dataset not in self.synthetic

    def auc(self, condition: Condition, framework: str, name: str = MACRO) -> dict[int, float]:
        """Return that of a class by seed, where it is there and defined."""
        seeds = sorted({cell.seed for cell in self.evaluations})
        found = {seed: self.evaluations.get(Cell(condition, framework, seed)) for seed in seeds}
        return {seed: value for seed, one in found.items() if one and (value := one["auc"].get(name)) is not None}


def read_results(runs: Mapping[Cell, Path], needs: Collection[str] = ("auc",)) -> Results:
    """Read what `evaluate` found of these runs' folders, with the fields that it `needs`; `AnatoBenchError` names what
    is missing or damaged."""
    configs = {cell: RunConfig.read(run) for cell, run in runs.items()}
    evaluations = {cell: read_evaluation(run, "test", configs[cell].task, needs) for cell, run in runs.items()}
    versions: dict[str, str] = {}
    sizes: dict[str, str] = {}
    last_of_each = {(cell.condition.dataset, cell.framework): cell for cell in runs}
    for (dataset, _), cell in last_of_each.items():
        versions |= configs[cell].versions
        sizes[dataset] = configs[cell].size
    synthetic = {dataset for (dataset, _), cell in last_of_each.items() if trained_on_synthetic(runs[cell])}
    return Results(configs, evaluations, versions, sizes, tuple(sorted(synthetic)))


def paired(minuend: Mapping[int, float], subtrahend: Mapping[int, float]) -> dict[int, float]:
    """Return the first minus the second, by seed, for every seed that both have."""
    return {seed: minuend[seed] - subtrahend[seed] for seed in minuend if seed in subtrahend}


def points(row: Mapping[str, Any] | None, signed: bool = True) -> str:
    """Write a mean of AUC with its interval (`mean`, `low`, `high`) for a person, in hundredths; "-" for None."""
    if row is None or row["mean"] is None:
        return "-"
    mean, low, high = row["mean"], row["low"], row["high"]
    sign = "+" if signed else ""
    interval = "" if low is None else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * mean:{sign}.2f}{interval}"


def validation_curve(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return steps and macro AUC on validation cases, of every evaluation in a run's log that has one."""
    return [
        (int(record["step"]), float(record["auc_macro"]))
        for record in records
        if record["kind"] == "evaluation" and record["auc_macro"] is not None
    ]


def validation_auc(run: Path) -> float:
    """Return that of the checkpoint which is evaluated, the best; `AnatoBenchError` if there is none."""
    curve = validation_curve(read_records(run))
    if not curve:
        raise AnatoBenchError(
            f"{run}: has no AUC on validation cases, by which a learning rate would be chosen: give one rate for each "
            "arm, or validation patients (--validation-fraction)"
        )
    return max(auc for _, auc in curve)
