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
from anatobench.experiments.published import published_gain
from anatobench.experiments.results import FRAMEWORK_NAMES, Results, TextTable, points, read_results, validation_curve
from anatobench.experiments.runs import DONE, run_folder, state_of
from anatobench.experiments.statistics import SIGNIFICANCE, above, equivalence_of, holm
from anatobench.recipes import FRAMEWORKS
from anatobench.store.reader import Store
from anatobench.training.initial_weights import INITIAL_WEIGHTS_FILE
from anatobench.training.metrics_records import read_records
from anatobench.training.sessions import read_sessions

FORMAT = 2
BOTH = "all"
DIFFERENCES = {"JAX - PyTorch": "framework_difference", "PyTorch nudged - PyTorch": "control_difference"}
"""What the tables call a list of the record."""
MEAN = ("pairs", "mean [95 % interval over seeds], AUC points", "seeds and patients")
"""What the tables call a mean over seeds (`_mean`)."""
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
    first = next(iter(folders))
    samples = read_samples(folders, found.configs[first].task)
    store = Store.open(store_of(out))
    told = given_away(store)
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
            {**_named(condition), "validation": {f"{rate:g}": auc for rate, auc in sorted(rates.items())},
             "chosen": next(iter(rates))}
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


def _cell(cell: Cell, found: Results, records: Records) -> dict[str, Any]:
    steps = [float(record["seconds"]) for record in records if record["kind"] == "step"]
    return {
        "model": cell.condition.model,
        "framework": cell.framework,
        "segmentation": cell.condition.supervised,
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
        self._study, self._samples = study, samples
        self._names = next(iter(samples.values())).names
        self._rest = tuple(name for name in self._names if name not in told)
        with_head, without = study.conditions[::2], study.conditions[1::2]
        self._pairs = dict(zip(study.models, zip(with_head, without, strict=True), strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "arms": [
                {**_named(condition), "framework": framework, **mean_row(self._arm(condition, framework))}
                for condition in self._study.conditions
                for framework in (*FRAMEWORKS, BOTH)
            ],
            "framework_difference": list(self._differences(FRAMEWORKS[1])),
            "control_difference": list(self._differences(FRAMEWORKS[0], nudged=True)),
            "segmentation_gain": [
                self._gain_row(model, framework) for model in self._pairs for framework in (*FRAMEWORKS, BOTH)
            ],
            "class_gains": [
                {"model": model, "class": name, **mean_row(gains, (name,))}
                for model in self._pairs
                for gains in [self._gain(model, BOTH)]
                for name in self._names
            ],
            "hypotheses": self._tests(),
        }

    def _arm(self, condition: Condition, framework: str, nudged: bool = False) -> dict[int, Samples]:
        """Return what the seeds of an arm found; of `BOTH` the mean of the frameworks, which share weights and
        batches, so that a seed counts once."""
        if framework != BOTH:
            cells = (Cell(condition, framework, seed, nudged) for seed in range(self._study.seeds))
            return {cell.seed: self._samples[cell] for cell in cells if cell in self._samples}
        both = [self._arm(condition, one) for one in FRAMEWORKS]
        return {seed: mean_sample([one[seed] for one in both]) for seed in both[0]}

    def _from_reference(self, condition: Condition, framework: str, nudged: bool = False) -> dict[int, Samples]:
        return difference(self._arm(condition, framework, nudged), self._arm(condition, FRAMEWORKS[0]))

    def _gain(self, model: str, framework: str) -> dict[int, Samples]:
        with_head, without = self._pairs[model]
        return difference(self._arm(with_head, framework), self._arm(without, framework))

    def _differences(self, framework: str, nudged: bool = False) -> Iterator[dict[str, Any]]:
        for condition in self._study.conditions:
            if pairs := self._from_reference(condition, framework, nudged):
                test = equivalence_of(_means(pairs), self._study.margin)
                yield {**_named(condition), **mean_row(pairs), **asdict(test)}

    def _gain_row(self, model: str, framework: str) -> dict[str, Any]:
        gains = self._gain(model, framework)
        return {
            "model": model,
            "framework": framework,
            **mean_row(gains),
            "without_given_away": mean_row(gains, self._rest) if self._rest else None,
            "paper": published_gain(self._study.task, model, pretrained=False),
        }

    def _tests(self) -> list[dict[str, Any]]:
        p_values = {one: self._p_value(one) for one in hypotheses_of(self._study)}
        known = {one: p for one, p in p_values.items() if p is not None}
        adjusted = holm(known) if len(known) == len(p_values) else {}
        return [
            {
                **asdict(one),
                "statement": one.statement(self._study.margin),
                "p_value": p,
                "p_holm": adjusted.get(one),
                "shown": adjusted[one] < SIGNIFICANCE if one in adjusted else None,
            }
            for one, p in p_values.items()
        ]

    def _p_value(self, one: Hypothesis) -> float | None:
        with_head, without = self._pairs[one.model]
        arm = with_head if one.segmentation else without
        if one.kind == EQUIVALENT:
            return equivalence_of(_means(self._from_reference(arm, FRAMEWORKS[1])), self._study.margin).p_value
        if one.kind == GAIN:
            return above(_means(self._gain(one.model, BOTH)), 0.0)
        assert one.kind == ABOVE_CHANCE
        return above(_means(self._arm(arm, BOTH)), CHANCE)


def _named(condition: Condition) -> dict[str, Any]:
    return {"model": condition.model, "segmentation": condition.supervised}


def _means(by_seed: Mapping[int, Samples]) -> list[float]:
    return [one.mean() for one in by_seed.values()]


def difference_table(record: Mapping[str, Any]) -> TextTable:
    """Return the frameworks' differences, then the control's."""
    margin = f"{100 * record['study']['margin']:g}"
    verdicts = {None: "one seed: no test", True: f"within {margin} by itself", False: f"not shown within {margin}"}
    rows = [
        (f"{name}, {arm_name(row)}", *_mean(row), _p(row["p_value"]), verdicts[row["equivalent"]])
        for name, kind in DIFFERENCES.items()
        for row in record[kind]
    ]
    return TextTable(("difference", *MEAN, "p (two one-sided)", "verdict"), rows)


def gain_table(record: Mapping[str, Any]) -> TextTable:
    """Return what segmentation supervision gains."""
    names = {BOTH: "both frameworks", **FRAMEWORK_NAMES}
    rows = [
        (f"{row['model']}, {names[row['framework']]}", *_mean(row), points(row["without_given_away"]))
        for row in record["segmentation_gain"]
    ]
    return TextTable(("with - without segmentation", *MEAN, "without what the whole scan tells"), rows)


def class_table(record: Mapping[str, Any]) -> TextTable:
    """Return the gain of every class, beside what one statistic of the whole scan tells."""
    several = len(record["study"]["models"]) > 1
    rows = []
    for row in record["class_gains"]:
        told = record["given_away"].get(row["class"])
        shown = "-" if told is None else f"AUC {told['auc']:.2f} ({told['statistic']})"
        rows.append((f"{row['model']}, {row['class']}" if several else row["class"], *_mean(row)[1:], shown))
    header = ("class", "gain [95 % interval over seeds], AUC points", MEAN[-1], "told by the whole scan")
    return TextTable(header, rows)


def hypothesis_table(record: Mapping[str, Any]) -> TextTable:
    """Return the family of hypotheses and what was shown."""
    verdicts = {None: "no test", True: "shown", False: "not shown"}
    rows = [
        (row["statement"], _p(row["p_value"]), _p(row["p_holm"]), verdicts[row["shown"]])
        for row in record["hypotheses"]
    ]
    return TextTable(("hypothesis", "p", "p after Holm", "verdict"), rows)


def arm_table(record: Mapping[str, Any]) -> TextTable:
    """Return the mean test AUC of every arm."""
    names = {BOTH: "both", **FRAMEWORK_NAMES}
    rows = [(arm_name(row), names[row["framework"]], *_mean(row, signed=False)[1:]) for row in record["arms"]]
    return TextTable(("arm", "framework", "test AUC [95 % interval over seeds], points", MEAN[-1]), rows)


def auc_table(record: Mapping[str, Any]) -> TextTable:
    """Return the test AUC of every run, those of one arm in a row."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for cell in record["cells"]:
        arm = FRAMEWORK_NAMES[cell["framework"]] + (" nudged" if cell["nudged"] else "")
        key = (cell["model"], "with" if cell["segmentation"] else "without", arm)
        groups.setdefault(key, []).append(cell["auc"]["macro"])
    rows = [
        (*names, " ".join(f"{value:.3f}" for value in values), f"{sum(values) / len(values):.3f}")
        for names, values in groups.items()
    ]
    return TextTable(("model", "segmentation", "framework", "test AUC of each seed", "mean"), rows)


def arm_name(row: Mapping[str, Any]) -> str:
    """Name a model and whether its head was trained."""
    return f"{row['model']} {'with' if row['segmentation'] else 'without'} segmentation"


def _mean(row: Mapping[str, Any], signed: bool = True) -> tuple[str, str, str]:
    """Return the number of seeds, their mean with its interval, and that over seeds and patients, in AUC points."""
    both, sign = row["seeds_patients"], "+" if signed else ""
    shown = "-" if both is None else f"[{100 * both[0]:{sign}.1f}, {100 * both[1]:{sign}.1f}]"
    return str(row["count"]), points(row, signed), shown


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
