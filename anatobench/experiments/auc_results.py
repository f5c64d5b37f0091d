"""What the AUC study found, as a record (JSON) and as tables.

Record, format 2, AUC as fractions:
- `study` (the settings) and `plan` (auc_plan.py: what was declared, its digest, what was changed since; null for a
  pilot, which nobody declared); `seeds`, those of which every run is there; `recipe`;
- `cells`: every run with its rate, its test AUC and, of validation cases, its AUC by step (`curve`); `training_s` are
  the seconds that its steps took;
- `choice`: per model and head the mean validation AUC of each learning rate that it could have;
- `arms`: mean test AUC per model, head and framework; `framework_difference` and `control_difference`, per model and
  head; `segmentation_gain`, per model and framework, and both (`all`), each also without the classes in `given_away`
  (whole_scan.py); `class_gains`, of both frameworks;
- `hypotheses`: of every member of the family its p value, the same after Holm, and whether it was shown;
- `versions`, `device`.

Runs that are compared began with the same weights and saw the same batches in the same order, to the bit: no record is
made otherwise. A mean has an interval of Student's t over seeds (`low`, `high`) and one for which seeds and patients
are both drawn anew (`seeds_patients`); null for a single seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.whole_scan import GIVEN_AWAY, given_away
from anatobench.experiments.auc_plan import ABOVE_CHANCE, EQUIVALENT, GAIN, Hypothesis, hypotheses_of, plan_in
from anatobench.experiments.auc_samples import Samples, difference, mean_row, mean_sample, read_samples
from anatobench.experiments.auc_study import AucStudy, chosen_rates, name_of, store_of
from anatobench.experiments.grid import MACRO, Cell, Condition
from anatobench.experiments.power import holm
from anatobench.experiments.published import published_gain
from anatobench.experiments.results import (
    FRAMEWORK_NAMES,
    Results,
    TextTable,
    points,
    read_results,
    validation_curve,
)
from anatobench.experiments.runs import DONE, run_folder, state_of
from anatobench.experiments.statistics import SIGNIFICANCE, above, equivalence_of
from anatobench.recipes import FRAMEWORKS
from anatobench.store.reader import Store
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.training.metrics_records import read_records
from anatobench.training.sessions import read_sessions

FORMAT = 2
BOTH = "all"
DIFFERENCES = {"JAX - PyTorch": "framework_difference", "PyTorch nudged - PyTorch": "control_difference"}
"""What the tables call a list of the record."""
CHANCE = 0.5
Records = Sequence[Mapping[str, Any]]
"""What a run logged."""


def complete_seeds(study: AucStudy, out: Path) -> tuple[int, ...]:
    """Return the seeds of which every run was evaluated."""
    open_ones = {cell.seed for cell in study.cells if state_of(out, name_of(cell)) != DONE}
    return tuple(seed for seed in range(study.seeds) if seed not in open_ones)


def collect(study: AucStudy, out: Path, seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the record of these seeds, of all by default; `AnatoBenchError` if a run is missing."""
    seeds = range(study.seeds) if seeds is None else seeds
    folders = {cell: run_folder(out, name_of(cell)) for cell in study.cells if cell.seed in seeds}
    if not folders:
        raise AnatoBenchError(f"{out}: no seed is complete, so there is nothing to compare: let it go on")
    found = read_results(folders, needs=("auc", "ci95"))
    for cell, evaluation in found.evaluations.items():
        if evaluation["auc"][MACRO] is None:
            raise AnatoBenchError(f"{folders[cell]}: the AUC is undefined: the cohort is too small, give more --cases")
    records = {cell: read_records(folder) for cell, folder in folders.items()}
    _check_pairs(study, folders, records)
    samples = read_samples(folders)
    store = Store.open(store_of(out))
    told = given_away(store)
    first = next(iter(folders))
    comparison = _Comparison(study, samples, [name for name, one in told.items() if one["auc"] >= GIVEN_AWAY])
    return {
        "kind": "auc_study",
        "format": FORMAT,
        "study": study.to_json(),
        "plan": plan_in(out),
        "seeds": list(seeds),
        "recipe": {**asdict(found.configs[first].recipe), "learning_rate": "per arm", "seed": "per run",
                   "segmentation_weight": "1 or 0"},
        "cohort": {split: len(store.split(split)) for split in ("train", "validation", "test")},
        "choice": [
            {"model": condition.model, "segmentation": supervised(condition),
             "validation": {f"{rate:g}": auc for rate, auc in sorted(rates.items())}, "chosen": next(iter(rates))}
            for condition, rates in chosen_rates(study, out).items() if rates
        ],
        "cells": [_cell(cell, found, records[cell]) for cell in folders],
        **comparison.to_json(),
        "given_away": told,
        "versions": found.versions,
        "device": read_sessions(folders[first])[0]["device"]["name"],
    }  # fmt: skip


def _check_pairs(study: AucStudy, folders: Mapping[Cell, Path], records: Mapping[Cell, Records]) -> None:
    """Raise `AnatoBenchError` if runs that are compared did not begin with the same weights, bit for bit, or did not
    see the same batches in the same order: then more than rounding parts them."""
    for group in study.groups:
        first, *others = group
        if first not in folders:
            continue
        name = folders[first].name
        weights, batches = _beginning(folders[first]), _batches(records[first])
        for cell in others:
            run = folders[cell]
            if _beginning(run) != weights:
                raise AnatoBenchError(f"{run}: began with other weights than {name}: they are no pair")
            if _batches(records[cell]) != batches:
                raise AnatoBenchError(f"{run}: saw other batches than {name}: they are no pair")


def _beginning(run: Path) -> bytes:
    path = run / INITIAL_WEIGHTS_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror}): copy the run again") from None


def _batches(records: Records) -> list[tuple[int, str]]:
    return [(int(record["step"]), str(record["batch_digest"])) for record in records if record["kind"] == "step"]


def supervised(condition: Condition) -> bool:
    """Return whether the auxiliary head was trained."""
    return condition.segmentation_weight > 0


def _cell(cell: Cell, found: Results, records: Records) -> dict[str, Any]:
    steps = [float(record["seconds"]) for record in records if record["kind"] == "step"]
    return {
        "model": cell.condition.model,
        "framework": cell.framework,
        "segmentation": supervised(cell.condition),
        "seed": cell.seed,
        "nudged": cell.nudged,
        "learning_rate": found.configs[cell].recipe.learning_rate,
        "auc": found.evaluations[cell]["auc"],
        "ci95": found.evaluations[cell]["ci95"]["auc"],
        "curve": [list(point) for point in validation_curve(records)],
        "training_s": round(sum(steps), 1),  # however often the run was stopped
    }


class _Comparison:
    """Every mean and every test of a study."""

    def __init__(self, study: AucStudy, samples: Mapping[Cell, Samples], told: Sequence[str]) -> None:
        self._study, self._told = study, told
        self._arms: dict[tuple[Condition, str, bool], dict[int, Samples]] = {}
        for cell, sample in samples.items():
            self._arms.setdefault((cell.condition, cell.framework, cell.nudged), {})[cell.seed] = sample
        self._pairs = list(zip(study.conditions[::2], study.conditions[1::2], strict=True))

    def to_json(self) -> dict[str, Any]:
        reference, candidate = FRAMEWORKS
        names = next(iter(next(iter(self._arms.values())).values())).names
        return {
            "arms": [
                {**self._named(condition), "framework": framework, **mean_row(self._arm(condition, framework))}
                for condition in self._study.conditions
                for framework in (*FRAMEWORKS, BOTH)
            ],
            "framework_difference": list(self._differences(candidate, nudged=False)),
            "control_difference": list(self._differences(reference, nudged=True)),
            "segmentation_gain": list(self._gains()),
            "class_gains": [
                {"model": with_head.model, "class": name, **mean_row(gains, (name,))}
                for with_head, without in self._pairs
                for gains in [self._gain(with_head, without, BOTH)]
                for name in names
            ],
            "hypotheses": self._tests(),
        }

    def _named(self, condition: Condition) -> dict[str, Any]:
        return {"model": condition.model, "segmentation": supervised(condition)}

    def _arm(self, condition: Condition, framework: str, nudged: bool = False) -> dict[int, Samples]:
        """Return what the seeds of an arm found; of `BOTH` the mean of the frameworks, which share weights and
        batches, so that a seed counts once."""
        if framework != BOTH:
            return self._arms.get((condition, framework, nudged), {})
        both = [self._arm(condition, one) for one in FRAMEWORKS]
        return {seed: mean_sample([one[seed] for one in both]) for seed in both[0]}

    def _gain(self, with_head: Condition, without: Condition, framework: str) -> dict[int, Samples]:
        return difference(self._arm(with_head, framework), self._arm(without, framework))

    def _differences(self, framework: str, nudged: bool) -> Iterator[dict[str, Any]]:
        for condition in self._study.conditions:
            pairs = difference(self._arm(condition, framework, nudged), self._arm(condition, FRAMEWORKS[0]))
            if pairs:
                values = [pair.mean() for pair in pairs.values()]
                test = asdict(equivalence_of(values, self._study.margin))
                yield {**self._named(condition), **mean_row(pairs), **test}

    def _gains(self) -> Iterator[dict[str, Any]]:
        for with_head, without in self._pairs:
            published = published_gain(self._study.task, with_head.model, pretrained=False)
            for framework in (*FRAMEWORKS, BOTH):
                gains = self._gain(with_head, without, framework)
                names = next(iter(gains.values())).names
                rest = tuple(name for name in names if name not in self._told)
                yield {"model": with_head.model, "framework": framework, **mean_row(gains),
                       "without_given_away": mean_row(gains, rest) if rest else None, "paper": published}  # fmt: skip

    def _tests(self) -> list[dict[str, Any]]:
        family = hypotheses_of(self._study)
        p_values = [self._p_value(one) for one in family]
        known = {str(place): p for place, p in enumerate(p_values) if p is not None}
        adjusted = holm(known) if len(known) == len(family) else {}
        return [
            {**asdict(one), "statement": one.statement(self._study.margin), "p_value": p,
             "p_holm": (holm_p := adjusted.get(str(place))), "shown": None if holm_p is None else holm_p < SIGNIFICANCE}
            for place, (one, p) in enumerate(zip(family, p_values, strict=True))
        ]  # fmt: skip

    def _p_value(self, one: Hypothesis) -> float | None:
        with_head, without = next(pair for pair in self._pairs if pair[0].model == one.model)
        arm = with_head if one.segmentation else without
        if one.kind == EQUIVALENT:
            pairs = difference(self._arm(arm, FRAMEWORKS[1]), self._arm(arm, FRAMEWORKS[0]))
            return equivalence_of([pair.mean() for pair in pairs.values()], self._study.margin).p_value
        if one.kind == GAIN:
            return above([gain.mean() for gain in self._gain(with_head, without, BOTH).values()], 0.0)
        assert one.kind == ABOVE_CHANCE
        return above([found.mean() for found in self._arm(arm, BOTH).values()], CHANCE)


def difference_table(record: Mapping[str, Any]) -> TextTable:
    """Return the frameworks' differences, then the control's."""
    margin = f"{100 * record['study']['margin']:g}"
    verdicts = {None: "one seed: no test", True: f"within {margin} by itself", False: f"not shown within {margin}"}
    header = ("difference", "pairs", "mean [95 % interval over seeds], AUC points", "seeds and patients",
              "p (two one-sided)", "verdict")  # fmt: skip
    return TextTable(header, [
        (f"{difference_name}, {arm_name(row)}", str(row["count"]), points(row), both_intervals(row),
         "-" if row["p_value"] is None else f"{row['p_value']:.2g}", verdicts[row["equivalent"]])
        for difference_name, kind in DIFFERENCES.items()
        for row in record[kind]
    ])  # fmt: skip


def arm_name(row: Mapping[str, Any]) -> str:
    """Name a model and whether its head was trained."""
    return f"{row['model']} {'with' if row['segmentation'] else 'without'} segmentation"


def both_intervals(row: Mapping[str, Any]) -> str:
    """Write the interval of seeds and patients, in AUC points."""
    found = row["seeds_patients"]
    return "-" if found is None else f"[{100 * found[0]:+.1f}, {100 * found[1]:+.1f}]"


def gain_table(record: Mapping[str, Any]) -> TextTable:
    """Return what segmentation supervision gains."""
    names = {BOTH: "both frameworks", **FRAMEWORK_NAMES}
    header = ("with - without segmentation", "pairs", "mean [95 % interval over seeds], AUC points",
              "seeds and patients", "without what the whole scan tells")  # fmt: skip
    return TextTable(header, [
        (f"{row['model']}, {names[row['framework']]}", str(row["count"]), points(row), both_intervals(row),
         points(row["without_given_away"]))
        for row in record["segmentation_gain"]
    ])  # fmt: skip


def class_table(record: Mapping[str, Any]) -> TextTable:
    """Return the gain of every class, beside what one statistic of the whole scan tells."""
    header = ("class", "gain [95 % interval over seeds], AUC points", "seeds and patients", "told by the whole scan")
    several = len(record["study"]["models"]) > 1
    rows = []
    for row in record["class_gains"]:
        told = record["given_away"].get(row["class"])
        shown = "-" if told is None else f"AUC {told['auc']:.2f} ({told['statistic']})"
        name = f"{row['model']}, {row['class']}" if several else row["class"]
        rows.append((name, points(row), both_intervals(row), shown))
    return TextTable(header, rows)


def hypothesis_table(record: Mapping[str, Any]) -> TextTable:
    """Return the family of hypotheses and what was shown."""
    verdicts = {None: "no test", True: "shown", False: "not shown"}

    def number(p: float | None) -> str:
        return "-" if p is None else f"{p:.2g}"

    return TextTable(("hypothesis", "p", "p after Holm", "verdict"), [
        (row["statement"], number(row["p_value"]), number(row["p_holm"]), verdicts[row["shown"]])
        for row in record["hypotheses"]
    ])  # fmt: skip


def arm_table(record: Mapping[str, Any]) -> TextTable:
    """Return the mean test AUC of every arm."""
    names = {BOTH: "both", **FRAMEWORK_NAMES}
    header = ("arm", "framework", "test AUC [95 % interval over seeds], points", "seeds and patients")
    return TextTable(header, [
        (arm_name(row), names[row["framework"]], points(row, signed=False), both_intervals(row).replace("+", ""))
        for row in record["arms"]
    ])  # fmt: skip


def auc_table(record: Mapping[str, Any]) -> TextTable:
    """Return the test AUC of every run, those of one arm in a row."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for cell in record["cells"]:
        arm = FRAMEWORK_NAMES[cell["framework"]] + (" nudged" if cell["nudged"] else "")
        key = (cell["model"], "with" if cell["segmentation"] else "without", arm)
        groups.setdefault(key, []).append(cell["auc"]["macro"])
    header = ("model", "segmentation", "framework", "test AUC of each seed", "mean")
    return TextTable(header, [
        (*names, " ".join(f"{value:.3f}" for value in values), f"{sum(values) / len(values):.3f}")
        for names, values in groups.items()
    ])  # fmt: skip
