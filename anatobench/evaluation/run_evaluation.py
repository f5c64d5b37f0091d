"""A trained model on one split: predictions, metrics, organ Dice, and a few slices to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.case import SPLITS
from anatobench.engine import Engine, load_engine
from anatobench.errors import AnatoBenchError, UsageError, check_choice, check_kind
from anatobench.evaluation.calibration import brier
from anatobench.evaluation.case_slices import case_slices, example_cases
from anatobench.evaluation.difference import auc_difference, refuse_other_cases
from anatobench.evaluation.evaluation_file import read_evaluation, write_evaluation
from anatobench.evaluation.metrics import THRESHOLD_RULES, evaluate
from anatobench.evaluation.organ_dice import dice_head, dice_of_split, write_organ_dice
from anatobench.evaluation.predictions import (
    AGGREGATIONS,
    Predictions,
    classify,
    default_aggregation,
    read_predictions,
    write_predictions,
)
from anatobench.evaluation.worst_cases import worst_case_ids
from anatobench.recipes import FRAMEWORKS
from anatobench.store.batches import PADDING, evaluation_batches
from anatobench.store.reader import Store
from anatobench.system.array_files import safetensors_bytes
from anatobench.system.atomic_files import write_atomically
from anatobench.system.progress import SharedProgress, named_if_slow
from anatobench.training.checkpoints import read_best
from anatobench.training.run_folder import PATHS, RunConfig, evaluation_file

EVALUATED_COMPILED = "false"
"""PyTorch's forward passes are taken operation by operation, whatever the run was trained with. Training steps of the
full mvit_v2_s took an H100 156 ms so, 81 ms after 206 s of compiling: it would need thousands of cases to gain."""


def open_store(config: RunConfig, path: Path | str | None = None) -> Store:
    """Return the run's store, or the one at `path`; `AnatoBenchError` if it was prepared for another task or size."""
    return fitting(Store.open(path or config.store), config)


def fitting(store: Store, config: RunConfig) -> Store:
    """Return the store; `AnatoBenchError` if it was prepared for another task or size than the run's."""
    for name, mine, theirs in (("task", config.task, store.task), ("size", config.size, store.size)):
        if mine != theirs:
            shown = (mine, theirs) if name == "size" else (config.task.name, store.task.name)
            raise AnatoBenchError(f"{store.root}: was prepared for {name} {shown[1]}, the run is for {name} {shown[0]}")
    return store


def predict_split(
    engine: Engine,
    store: Store,
    split: str,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
    silent: bool = False,
) -> Predictions:
    """Logits of every case of a split, in the store's order, from centre crops. `check` is called between batches.

    Several processes share out the cases; all of them get all logits.
    """
    expected, processes = store.split(split), engine.processes
    place = {"process_index": processes.index, "process_count": processes.count}
    indices, rows = [], []
    with (
        evaluation_batches(store, split, batch_size, **place) as batches,
        SharedProgress(len(expected), split, "case", silent or not processes.leads) as progress,
    ):
        for batch in batches:
            check()
            indices.append(batch.case_index)
            rows.append(engine.predict(batch["volume"]))
            progress.update(int((batch.case_index != PADDING).sum()) * processes.count)
    gathered = zip(_of_all(engine, indices), _of_all(engine, rows), strict=True)
    logits = {int(index): _finite(row, store.cases[index].case_id) for index, row in gathered if index != PADDING}
    cases = [store.cases[index] for index in expected]
    return Predictions(
        store.task,
        tuple(case.case_id for case in cases),
        tuple(case.patient_id for case in cases),
        np.stack([logits[index] for index in expected]).astype(np.float32),
        np.array([case.targets for case in cases], dtype=np.int8),
    )


def evaluate_run(
    run: Path | str,
    split: str = "test",
    store_path: Path | str | None = None,
    framework: str | None = None,
    rule: str = "closest_to_corner",
    threshold_split: str | None = None,
    aggregation: str | None = None,
) -> dict[str, Any]:
    """Evaluate a run's best checkpoint; the figures, which `RUN/evaluation_<split>.json` then holds, too
    (evaluation_file.py).

    Also writes `RUN/predictions_<split>.csv`, slices of a few cases and of the worst ones
    (`RUN/examples_<split>.safetensors`, `RUN/worst_cases_<split>.safetensors`) and, for a model with the auxiliary
    head, `RUN/organ_dice_<split>.csv`. Thresholds are chosen on `threshold_split`, or as in the paper on the
    evaluated split itself.

    Of a run that left the classifier as it was drawn there are no predictions, and `auc` is None: what is measured is
    the auxiliary head.
    """
    check_choice("split", split, SPLITS)
    check_choice("threshold rule", rule, THRESHOLD_RULES)
    for name, value, choices in (
        ("framework", framework, FRAMEWORKS),
        ("threshold_split", threshold_split, SPLITS),
        ("aggregation", aggregation, AGGREGATIONS),
    ):
        if value is not None:
            check_choice(name, value, choices)
    check_kind("store_path", store_path, (*PATHS, type(None)), "a path")
    config, run = RunConfig.read(run), Path(run)
    classifies = config.trains_classifier
    if not classifies and (threshold_split is not None or aggregation is not None):
        raise UsageError(
            f"{run}: was trained for {config.plan.label}, which leaves the classifier as it was drawn, so there are no "
            "thresholds to choose and no probabilities to aggregate: leave --threshold-split and --aggregate out"
        )
    store = open_store(config, store_path)
    if not store.split(split):
        raise AnatoBenchError(f"{store.root}: has no {split} cases: it holds {store.contents}: choose another --split")
    checkpoint = read_best(run)
    recipe = replace(config.recipe, compile=EVALUATED_COMPILED)
    engine = load_engine(framework or config.framework, config.spec, recipe)
    engine.load_weights(checkpoint.weights)
    batch_size = config.recipe.batch_size

    predictions = predict_split(engine, store, split, batch_size) if classifies else None
    if predictions is not None:
        write_predictions(run / f"predictions_{split}.csv", predictions)
    head = dice_head(config.spec.heads)
    dice = None if head is None else dice_of_split(engine, store, split, batch_size, head)
    if dice is not None:
        write_organ_dice(run / f"organ_dice_{split}.csv", dice)
    figures: dict[str, Any] = {"auc": None}
    if predictions is not None:
        aggregation = aggregation or default_aggregation(config.task)
        other = None
        if threshold_split not in (None, split):
            other = classify(predict_split(engine, store, str(threshold_split), batch_size), aggregation)
        with named_if_slow("evaluate: drawing bootstrap replicates"):
            judged = classify(predictions, aggregation)
            figures = evaluate(judged, rule, other, seed=config.recipe.seed)
            figures["brier"] = brier(judged, seed=config.recipe.seed)
        figures |= {"threshold_split": threshold_split or split, "aggregation": aggregation}
    figures |= {
        "split": split,
        "cases": len(store.split(split)),
        "task": config.task.name,
        "model": config.model,
        "size": config.size,
        "segmentation": config.segmentation,
        "framework": engine.name,
        "step": checkpoint.progress.step,
        "organ_dice": None if dice is None else dice.to_json(),
    }
    write_evaluation(run, split, figures)
    worst = set(worst_case_ids(predictions, figures.get("thresholds", {}), dice))
    for name, indices in (
        ("examples", example_cases(store, split)),
        ("worst_cases", [index for index in store.split(split) if store.cases[index].case_id in worst]),
    ):
        content = safetensors_bytes(case_slices(engine, store, indices))
        write_atomically(run / f"{name}_{split}.safetensors", content)
    return figures


def compare_runs(
    first: Path,
    second: Path,
    split: str = "test",
    store_path: str | None = None,
    framework: str | None = None,
    aggregation: str | None = None,
) -> dict[str, Any]:
    """Evaluate both runs as `evaluate_run` does; the second's AUC less the first's on the same patients, with its
    interval (`auc_difference`)."""
    for run in (first, second):
        config = RunConfig.read(run)
        if not config.trains_classifier:
            raise UsageError(f"{run}: was trained for {config.plan.label} and has no AUC to compare: name another run")
    _refuse_other_cases(first, second, split, store_path)
    figures = [
        evaluate_run(run, split, store_path, framework, *_earlier_thresholds(run, split), aggregation)
        for run in (first, second)
    ]
    one, other = (
        read_predictions(run / f"predictions_{split}.csv", RunConfig.read(run).task) for run in (first, second)
    )
    return {
        "kind": "difference",
        "runs": [str(first), str(second)],
        "split": split,
        **auc_difference(one, other, figures[0]["aggregation"], seed=RunConfig.read(first).recipe.seed),
    }


def _refuse_other_cases(first: Path, second: Path, split: str, store_path: str | None) -> None:
    """Raise `AnatoBenchError` if the two would be judged on other cases, before anything is computed or written."""
    stores = [open_store(RunConfig.read(run), store_path) for run in (first, second)]
    refuse_other_cases(*([store.cases[index].case_id for index in store.split(split)] for store in stores))


def _earlier_thresholds(run: Path, split: str) -> tuple[str, str | None]:
    """Return by which rule and on which split an earlier evaluation of the run chose its thresholds, so that one that
    is for the AUC alone leaves them as they are."""
    usual = THRESHOLD_RULES[0], None
    if not (run / evaluation_file(split)).exists():
        return usual
    try:
        found = read_evaluation(run, split, RunConfig.read(run).task, ("threshold_rule", "threshold_split"))
    except AnatoBenchError:  # it is written anew
        return usual
    return found["threshold_rule"], found["threshold_split"]


def _of_all(engine: Engine, parts: list[np.ndarray]) -> np.ndarray:
    """[cases of all processes, ...]"""
    gathered = engine.gather(np.concatenate(parts))
    return gathered.reshape(-1, *gathered.shape[2:])


def _finite(logits: np.ndarray, case_id: str) -> np.ndarray:
    if not np.isfinite(logits).all():
        raise AnatoBenchError(
            f"case {case_id}: the model's output is not finite: look at the case, or use precision fp32"
        )
    return logits
