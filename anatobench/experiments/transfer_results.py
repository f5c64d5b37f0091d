"""What the transfers found, as a record (JSON) and as one table.

benchmarks/results/schemas/transfer.json says what each field of the record, format 1, holds. Of stores it has their
names alone, and of each condition the learning rate that validation liked best.

An interval is Student's t over repetitions, None for a single one: it holds what the seed moves, which cases were drawn
with it, not which patients were tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.evaluation_file import Figures, read_evaluation
from anatobench.evaluation.organ_dice import read_organ_dice
from anatobench.experiments.grid import MACRO
from anatobench.experiments.results import (
    FRAMEWORK_NAMES,
    TextTable,
    known_auc,
    paired_difference,
    points,
    validation_auc,
)
from anatobench.experiments.runs import DONE, run_folder, state_of
from anatobench.experiments.statistics import interval_of_shares
from anatobench.experiments.transfer import (
    FINE_TUNED,
    FROZEN,
    NONE,
    PUBLISHED_GAINS,
    TransferCell,
    TransferCondition,
    TransferSelection,
    TransferSettings,
    count_name,
    pretraining_name,
)
from anatobench.recipes import FRAMEWORKS
from anatobench.store.reader import Store
from anatobench.training.run_folder import RunConfig
from anatobench.training.sessions import trained_on_synthetic

FORMAT = 1
WORDS = {"none": "none", "kinetics": "Kinetics", "partial_masks": "partial masks", "all_masks": "all masks",
         "frozen": "frozen", "fine_tuned": "fine-tuned"}  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """Of a condition."""

    rate: float
    auc: Mapping[int, Figures]
    """Of each seed's test cases, by class and `macro`, which is defined."""
    tried: dict[float, float]
    """Mean validation AUC by learning rate; empty where there was no choice."""


def collect(selection: TransferSelection, settings: TransferSettings, out: Path) -> dict[str, Any]:
    """Return the record of what is there; `AnatoBenchError` if nothing is, or if a result cannot be read."""
    cells = selection.cells(settings)
    done = [cell for cell in cells if state_of(out, cell.name) == DONE]
    if not done:
        raise AnatoBenchError(f"{out}: none of the {len(cells)} transfers asked for is done: see `transfer list`")
    trained = [pair for pair in selection.pretraining if state_of(out, pretraining_name(*pair)) == DONE]
    missing = [pretraining_name(*pair) for pair in selection.pretraining if pair not in trained]
    store = Store.read_index(settings.store)
    auc = {cell: read_evaluation(run_folder(out, cell.name), "test", store.task, ("auc",))["auc"] for cell in done}
    known = {cell: by_class for cell, by_class in auc.items() if by_class[MACRO] is not None}
    found = _chosen(known, settings, out)
    first_of_each = [next((cell for cell in done if cell.framework == one), None) for one in selection.frameworks]
    configs = [RunConfig.read(run_folder(out, cell.name)) for cell in first_of_each if cell is not None]
    return {
        "kind": "transfer",
        "format": FORMAT,
        "settings": {name: Path(value).name if name.endswith("store") and value else value
                     for name, value in asdict(settings).items()},
        "selection": asdict(selection),
        "task": store.task.name,
        "size": store.size,
        "synthetic": any(trained_on_synthetic(run_folder(out, cell.name)) for cell in done),
        "cohort": {split: len(store.split(split)) for split in ("train", "validation", "test")},
        "results": list(_results(found)),
        "rates": [{**asdict(condition), "validation": {f"{rate:g}": auc for rate, auc in of.tried.items()}}
                  for condition, of in found.items() if of.tried],
        "framework_differences": [
            {"weights": one.weights, "mode": one.mode, "cases": one.cases, **difference}
            for one, of in found.items()
            if one.framework == FRAMEWORKS[1]
            and (difference := _difference(of, found.get(replace(one, framework=FRAMEWORKS[0]))))
        ],
        "pretraining": list(_pretraining(trained, out)),
        "missing": [*missing, *(cell.name for cell in cells if cell not in auc)],
        "undefined": [cell.name for cell in auc if cell not in known],
        "versions": {name: version for config in configs for name, version in config.versions.items()},
    }  # fmt: skip


def _chosen(
    auc: Mapping[TransferCell, Figures], settings: TransferSettings, out: Path
) -> dict[TransferCondition, _Found]:
    """Return what stands for each condition: of several learning rates the one that validation likes best."""
    by_rate: dict[TransferCondition, dict[float, dict[int, Figures]]] = {}
    for cell, value in auc.items():
        by_rate.setdefault(cell.condition, {}).setdefault(cell.rate, {})[cell.seed] = value
    found = {}
    for condition, rates in by_rate.items():
        tried = {}
        if len(settings.rates(condition.mode)) > 1:
            common = set.intersection(*(set(seeds) for seeds in rates.values()))
            for rate in rates if common else ():
                names = [TransferCell(**asdict(condition), seed=seed, rate=rate).name for seed in sorted(common)]
                tried[rate] = float(np.mean([validation_auc(run_folder(out, name)) for name in names]))
        rate = max(tried, key=lambda one: tried[one]) if tried else next(iter(rates))
        found[condition] = _Found(rate, rates[rate], tried)
    return found


def _results(found: Mapping[TransferCondition, _Found]) -> Iterator[dict[str, Any]]:
    for condition, of in found.items():
        drawn = None if condition.weights == NONE else found.get(replace(condition, weights=NONE))
        tuned = found.get(replace(condition, mode=FINE_TUNED)) if condition.mode == FROZEN else None
        gain, macro = _difference(of, drawn), known_auc(of.auc)
        classes = [name for name in next(iter(of.auc.values())) if name != MACRO]
        by_class = {name: of_class for name in classes if (of_class := _difference(of, drawn, name))}
        yield {
            **asdict(condition),
            "rate": of.rate,
            "auc": {str(seed): value for seed, value in macro.items()},
            **asdict(interval_of_shares(list(macro.values()))),
            "gain": gain,
            "class_gains": by_class if gain else None,
            "frozen_loss": _difference(of, tuned),
            "published": PUBLISHED_GAINS.get(condition.cases) if gain else None,
        }


def _difference(of: _Found, other: _Found | None, name: str = MACRO) -> dict[str, Any] | None:
    """Return the mean of the first minus the second for a class, paired by seed; None without a common one."""
    return None if other is None else paired_difference(known_auc(of.auc, name), known_auc(other.auc, name))


def _pretraining(trained: Sequence[tuple[str, int]], out: Path) -> Iterator[dict[str, Any]]:
    for weights in dict.fromkeys(weights for weights, _ in trained):
        runs = [run_folder(out, pretraining_name(*pair)) for pair in trained if pair[0] == weights]
        means, by_case = list[Figures](), dict[str, list[float]]()
        for run in runs:
            task = RunConfig.read(run).task
            means.append(read_evaluation(run, "test", task, ("organ_dice",))["organ_dice"])
            dice = read_organ_dice(run / "organ_dice_test.csv", task)
            for case_id, mean in zip(dice.case_ids, dice.mean_of_case, strict=True):
                if np.isfinite(mean):
                    by_case.setdefault(case_id, []).append(float(mean))
        yield {
            "weights": weights,
            "organs": {
                organ: asdict(interval_of_shares(known))
                for organ in means[0]
                if (known := [value for run in means if (value := run.get(organ)) is not None])
            },
            "cases": {case_id: float(np.mean(values)) for case_id, values in by_case.items()},
        }


def result_table(record: Mapping[str, Any]) -> TextTable:
    """Return a row per entry of `results`, by number of cases."""
    header = ("cases", "transfer", "weights", "framework", "repetitions", "AUC, %", "gain over none, points",
              "frozen - fine-tuned, points", "published gain, Dice points")  # fmt: skip
    ordered = sorted(record["results"], key=lambda row: (row["cases"] or np.inf, row["mode"] != FINE_TUNED))
    return TextTable(header, [
        (count_name(row["cases"]), *_arm_words(row), str(row["count"]), points(row, signed=False), points(row["gain"]),
         points(row["frozen_loss"]), "-" if row["published"] is None else f"{100 * row['published']:+.1f}")
        for row in ordered
    ])  # fmt: skip


def class_table(record: Mapping[str, Any]) -> TextTable:
    """Return the gains of every class, of the fewest cases, sorted."""
    fewest = min((row["cases"] or np.inf for row in record["results"]), default=0)
    header = ("finding", "transfer", "weights", "framework", "repetitions", "gain over none, points")
    return TextTable(header, sorted(
        (name, *_arm_words(row), str(gain["count"]), points(gain))
        for row in record["results"]
        if row["class_gains"] and (row["cases"] or np.inf) == fewest
        for name, gain in row["class_gains"].items()
    ))  # fmt: skip


def dice_table(record: Mapping[str, Any]) -> TextTable:
    """Return the organ Dice of the pre-training."""
    header = ("pre-trained on", "organ", "repetitions", "Dice, %")
    return TextTable(header, [
        (WORDS[row["weights"]], organ, str(of["count"]), points(of, signed=False))
        for row in record["pretraining"]
        for organ, of in row["organs"].items()
    ])  # fmt: skip


def _arm_words(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return WORDS[row["mode"]], WORDS[row["weights"]], FRAMEWORK_NAMES[row["framework"]]
