"""What evaluated runs say, for the records of every study: AUC by seed and paired differences, and both in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import Evaluation, Figures, read_evaluation
from anatobench.experiments.grid import MACRO, Cell, Condition
from anatobench.experiments.statistics import interval_of
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
        return known_auc({seed: one["auc"] for seed, one in found.items() if one}, name)


def read_results(runs: Mapping[Cell, Path], needs: Collection[str] = ("auc",)) -> Results:
    """Read what `evaluate` found of these runs' folders, with the fields that it `needs`; `AnatoBenchError` names what
    is missing or damaged."""
    configs = {cell: RunConfig.read(run) for cell, run in runs.items()}
    evaluations = {cell: read_evaluation(run, "test", configs[cell].task, needs) for cell, run in runs.items()}
    last_of_each = {(cell.condition.dataset, cell.framework): cell for cell in runs}.values()
    versions = {name: version for cell in last_of_each for name, version in configs[cell].versions.items()}
    sizes = {cell.condition.dataset: configs[cell].size for cell in last_of_each}
    synthetic = {cell.condition.dataset for cell in last_of_each if trained_on_synthetic(runs[cell])}
    return Results(configs, evaluations, versions, sizes, tuple(sorted(synthetic)))


def known_auc(by_seed: Mapping[int, Figures], name: str = MACRO) -> dict[int, float]:
    """Return that of a class by seed, where it is there and defined."""
    return {seed: value for seed, auc in by_seed.items() if (value := auc.get(name)) is not None}


def paired(minuend: Mapping[int, float], subtrahend: Mapping[int, float]) -> dict[int, float]:
    """Return the first minus the second, by seed, for every seed that both have."""
    return {seed: minuend[seed] - subtrahend[seed] for seed in minuend if seed in subtrahend}


def paired_difference(minuend: Mapping[int, float], subtrahend: Mapping[int, float]) -> dict[str, Any] | None:
    """Return the mean of what is `paired` with its interval, as a record has it; None without a common seed."""
    differences = list(paired(minuend, subtrahend).values())
    return asdict(interval_of(differences)) if differences else None


def points(row: Mapping[str, Any] | None, signed: bool = True) -> str:
    """Write a mean of AUC with its interval (`mean`, `low`, `high`) for a person, in hundredths; "-" for None."""
    if row is None or row["mean"] is None:
        return "-"
    interval = "" if row["low"] is None else f" {ends((row['low'], row['high']), signed)}"
    return f"{100 * row['mean']:{'+' if signed else ''}.2f}{interval}"


def ends(interval: Sequence[float] | None, signed: bool = True) -> str:
    """Write both ends of an interval of AUC alone, in hundredths; "-" for None."""
    sign = "+" if signed else ""
    return "-" if interval is None else f"[{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]"


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
