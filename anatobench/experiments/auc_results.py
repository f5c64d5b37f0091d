"""What the AUC study found, as a record (JSON) and as tables.

benchmarks/results/schemas/auc_study.json says what each field of the record, format 2, holds; AUC are fractions.

Runs that are compared began with the same weights and saw the same batches in the same order, to the bit: no record is
made otherwise. A mean has an interval of Student's t over seeds (`low`, `high`) and one for which seeds and patients
are both drawn anew (`seeds_patients`); null for a single seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.whole_scan import GIVEN_AWAY, given_away
from anatobench.experiments.auc_plan import EQUIVALENT, GAIN, Hypothesis, hypotheses_of, plan_in
from anatobench.experiments.auc_samples import Samples, difference, mean_row, mean_sample, read_samples
from anatobench.experiments.auc_study import AucStudy, chosen_rates, name_of, store_of
from anatobench.experiments.grid import MACRO, Cell
from anatobench.experiments.published import published_gain
from anatobench.experiments.results import (
    FRAMEWORK_NAMES,
    Results,
    TextTable,
    ends,
    points,
    read_results,
    validation_curve,
)
from anatobench.experiments.runs import DONE, run_folder, state_of
from anatobench.experiments.statistics import SIGNIFICANCE, Equivalence, above, equivalence_of, holm
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
CONTROL = f"{FRAMEWORKS[0]}_nudged"
"""As `Cell.arm` has it."""
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
            {"model": condition.model, "segmentation": condition.supervised,
             "validation": {f"{rate:g}": auc for rate, auc in sorted(rates.items())}, "chosen": next(iter(rates))}
            for condition, rates in chosen_rates(study, out).items() if rates
        ],
        "cells": [_cell(cell, found, records[cell]) for cell in folders],
        **compared(study, samples, [name for name, one in told.items() if one["auc"] >= GIVEN_AWAY]),
        "given_away": told,
        "versions": found.versions,
        "device": read_sessions(folders[first])[0]["device"]["name"],
    }  # fmt: skip


def _check_pairs(study: AucStudy, folders: Mapping[Cell, Path], records: Mapping[Cell, Records]) -> None:
    """Raise `AnatoBenchError` if runs that are compared did not begin with the same weights, bit for bit, or did not
    see the same batches in the same order: then more than rounding parts them."""
    for first, *others in study.groups:
        if first not in folders:
            continue
        name, weights, batches = folders[first].name, _beginning(folders[first]), _batches(records[first])
        for cell in others:
            if _beginning(folders[cell]) != weights:
                raise AnatoBenchError(f"{folders[cell]}: began with other weights than {name}: they are no pair")
            if _batches(records[cell]) != batches:
                raise AnatoBenchError(f"{folders[cell]}: saw other batches than {name}: they are no pair")


def _beginning(run: Path) -> bytes:
    path = run / INITIAL_WEIGHTS_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror}): copy the run again") from None


def _batches(records: Records) -> list[tuple[int, str]]:
    return [(int(record["step"]), str(record["batch_digest"])) for record in records if record["kind"] == "step"]


def _cell(cell: Cell, found: Results, records: Records) -> dict[str, Any]:
    seconds = sum(float(record["seconds"]) for record in records if record["kind"] == "step")
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
        "training_s": round(seconds, 1),  # however often the run was stopped
    }


def compared(study: AucStudy, samples: Mapping[Cell, Samples], told: Sequence[str]) -> dict[str, Any]:
    """Return every mean and every test of a study, by their names in the record; `told` are the classes that the whole
    scan tells."""
    names = next(iter(samples.values())).names
    rest = tuple(name for name in names if name not in told)
    arms = _arms(samples)
    from_reference = {
        (model, segmentation, arm): difference(found, arms[model, segmentation, FRAMEWORKS[0]])
        for (model, segmentation, arm), found in arms.items()
    }
    gains = {
        (model, arm): difference(arms[model, True, arm], arms[model, False, arm])
        for model in study.models
        for arm in (*FRAMEWORKS, BOTH)
    }

    def differences(arm: str) -> list[dict[str, Any]]:
        return [
            {"model": model, "segmentation": segmentation, **mean_row(pairs), **asdict(_test(pairs, study))}
            for model in study.models
            for segmentation in (True, False)
            if (pairs := from_reference.get((model, segmentation, arm)))
        ]

    def p_value(one: Hypothesis) -> float | None:
        if one.kind == EQUIVALENT:
            return _test(from_reference[one.model, one.segmentation, FRAMEWORKS[1]], study).p_value
        if one.kind == GAIN:
            return above(_means(gains[one.model, BOTH]), 0.0)
        return above(_means(arms[one.model, one.segmentation, BOTH]), CHANCE)

    return {
        "arms": [
            {"model": model, "segmentation": segmentation, "framework": arm, **mean_row(arms[model, segmentation, arm])}
            for model in study.models
            for segmentation in (True, False)
            for arm in (*FRAMEWORKS, BOTH)
        ],
        "framework_difference": differences(FRAMEWORKS[1]),
        "control_difference": differences(CONTROL),
        "segmentation_gain": [
            {
                "model": model,
                "framework": arm,
                **mean_row(gain),
                "without_given_away": mean_row(gain, rest) if rest else None,
                "paper": published_gain(study.task, model, pretrained=False),
            }
            for (model, arm), gain in gains.items()
        ],
        "class_gains": [
            {"model": model, "class": name, **mean_row(gains[model, BOTH], (name,))}
            for model in study.models
            for name in names
        ],
        "hypotheses": _tested({one: p_value(one) for one in hypotheses_of(study)}, study.margin),
    }


def _arms(samples: Mapping[Cell, Samples]) -> dict[tuple[str, bool | None, str], dict[int, Samples]]:
    """Return by model, supervision and what trains it what the seeds of an arm found; under `BOTH` the mean of the
    frameworks, which share weights and batches, so that a seed counts once."""
    arms: dict[tuple[str, bool | None, str], dict[int, Samples]] = {}
    for cell, found in samples.items():
        arms.setdefault((cell.condition.model, cell.condition.supervised, cell.arm), {})[cell.seed] = found
    for model, segmentation in {key[:2] for key in arms}:
        both = [arms[model, segmentation, framework] for framework in FRAMEWORKS]
        arms[model, segmentation, BOTH] = {seed: mean_sample([one[seed] for one in both]) for seed in both[0]}
    return arms


def _tested(p_values: Mapping[Hypothesis, float | None], margin: float) -> list[dict[str, Any]]:
    known = {one: p for one, p in p_values.items() if p is not None}
    adjusted = holm(known) if len(known) == len(p_values) else {}
    return [
        {
            **asdict(one),
            "statement": one.statement(margin),
            "p_value": p,
            "p_holm": adjusted.get(one),
            "shown": adjusted[one] < SIGNIFICANCE if one in adjusted else None,
        }
        for one, p in p_values.items()
    ]


def _test(pairs: Mapping[int, Samples], study: AucStudy) -> Equivalence:
    return equivalence_of(_means(pairs), study.margin)


def _means(by_seed: Mapping[int, Samples]) -> list[float]:
    return [one.mean() for one in by_seed.values()]


def difference_table(record: Mapping[str, Any]) -> TextTable:
    """Return the frameworks' differences, then the control's."""
    margin = f"{100 * record['study']['margin']:g}"
    verdicts = {None: "one seed: no test", True: f"within {margin} by itself", False: f"not shown within {margin}"}
    return TextTable(("difference", *MEAN, "p (two one-sided)", "verdict"), [
        (f"{name}, {arm_name(row)}", *_mean(row), _p(row["p_value"]), verdicts[row["equivalent"]])
        for name, kind in DIFFERENCES.items()
        for row in record[kind]
    ])  # fmt: skip


def gain_table(record: Mapping[str, Any]) -> TextTable:
    """Return what segmentation supervision gains."""
    names = {BOTH: "both frameworks", **FRAMEWORK_NAMES}
    return TextTable(("with - without segmentation", *MEAN, "without what the whole scan tells"), [
        (f"{row['model']}, {names[row['framework']]}", *_mean(row), points(row["without_given_away"]))
        for row in record["segmentation_gain"]
    ])  # fmt: skip


def class_table(record: Mapping[str, Any]) -> TextTable:
    """Return the gain of every class, beside what one statistic of the whole scan tells."""
    several = len(record["study"]["models"]) > 1
    told = {name: f"AUC {one['auc']:.2f} ({one['statistic']})" for name, one in record["given_away"].items()}
    header = ("class", "gain [95 % interval over seeds], AUC points", MEAN[-1], "told by the whole scan")
    return TextTable(header, [
        (f"{row['model']}, {row['class']}" if several else row["class"], *_mean(row)[1:], told.get(row["class"], "-"))
        for row in record["class_gains"]
    ])  # fmt: skip


def hypothesis_table(record: Mapping[str, Any]) -> TextTable:
    """Return the family of hypotheses and what was shown."""
    verdicts = {None: "no test", True: "shown", False: "not shown"}
    return TextTable(("hypothesis", "p", "p after Holm", "verdict"), [
        (row["statement"], _p(row["p_value"]), _p(row["p_holm"]), verdicts[row["shown"]])
        for row in record["hypotheses"]
    ])  # fmt: skip


def arm_table(record: Mapping[str, Any]) -> TextTable:
    """Return the mean test AUC of every arm."""
    names = {BOTH: "both", **FRAMEWORK_NAMES}
    return TextTable(("arm", "framework", "test AUC [95 % interval over seeds], points", MEAN[-1]), [
        (arm_name(row), names[row["framework"]], *_mean(row, signed=False)[1:]) for row in record["arms"]
    ])  # fmt: skip


def auc_table(record: Mapping[str, Any]) -> TextTable:
    """Return the test AUC of every run, those of one arm in a row."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for cell in record["cells"]:
        arm = FRAMEWORK_NAMES[cell["framework"]] + (" nudged" if cell["nudged"] else "")
        key = (cell["model"], "with" if cell["segmentation"] else "without", arm)
        groups.setdefault(key, []).append(cell["auc"]["macro"])
    return TextTable(("model", "segmentation", "framework", "test AUC of each seed", "mean"), [
        (*names, " ".join(f"{value:.3f}" for value in values), f"{sum(values) / len(values):.3f}")
        for names, values in groups.items()
    ])  # fmt: skip


def arm_name(row: Mapping[str, Any]) -> str:
    """Name a model and whether its head was trained."""
    return f"{row['model']} {'with' if row['segmentation'] else 'without'} segmentation"


def _mean(row: Mapping[str, Any], signed: bool = True) -> tuple[str, str, str]:
    """Return the number of seeds, their mean with its interval, and that over seeds and patients, in AUC points."""
    return str(row["count"]), points(row, signed), ends(row["seeds_patients"], signed)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
