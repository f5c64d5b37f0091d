"""`anatobench evaluate`: the metrics of a run on one split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from anatobench.datasets.case import SPLITS
from anatobench.errors import UsageError
from anatobench.evaluation.metrics import RATES, THRESHOLD_RULES
from anatobench.evaluation.predictions import AGGREGATIONS
from anatobench.recipes import FRAMEWORKS

MOST_ORGANS = 8
"""That are named in a line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "AUC, sensitivity, specificity, precision and weighted F1 of a run's best checkpoint, per class and macro,\n"
        "with 95 % intervals from 1000 bootstrap replicates over patients. Writes evaluation_SPLIT.json,\n"
        "predictions_SPLIT.csv, organ_dice_SPLIT.csv (with the auxiliary head) and slices of a few cases and of the\n"
        "worst ones, examples_SPLIT.safetensors and worst_cases_SPLIT.safetensors, into RUN.\n\n"
        "As in the paper, the operating threshold of each class is chosen on the evaluated split itself, which\n"
        "flatters every metric but AUC; --threshold-split validation chooses it where it should be chosen.\n\n"
        "With two runs: the second's AUC less the first's on the same patients, per class and macro, with its 95 %\n"
        "interval (the same patients are drawn for both). The cases must be the same. Both are evaluated for it, by\n"
        "the rule and on the split with which an earlier evaluation chose thresholds. An interval over patients says\n"
        "nothing of another seed of either training.\n\n"
        "Of a run that left the classifier as it was drawn (--set objective=partial_masks) there is the organs' Dice\n"
        "and no AUC.\n\n"
        "In PyTorch nothing is compiled, whatever the run was trained with: a split is sooner done."
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder that `anatobench train` has written")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER", help="a second run, to compare with the first")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument("--store", help="the store, if it is not where the run was trained")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: the run's own")
    parser.add_argument("--threshold-rule", choices=THRESHOLD_RULES, default=THRESHOLD_RULES[0],
                        help=f"which point of the ROC curve (default: {THRESHOLD_RULES[0]})")  # fmt: skip
    parser.add_argument("--threshold-split", choices=SPLITS, help="split that chooses it (default: the evaluated one)")
    parser.add_argument("--aggregate", choices=AGGREGATIONS,
                        help="judge patients by the mean or max of their scans, or each scan for itself (default: mean "
                             "for RATIC, whose labels are per patient, none elsewhere)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.evaluation.run_evaluation import compare_runs, evaluate_run
    from anatobench.training.run_folder import evaluation_file

    if args.other is not None:
        if args.threshold_split is not None or args.threshold_rule != THRESHOLD_RULES[0]:
            raise UsageError("--threshold-rule and --threshold-split are for one run: a difference of AUCs has none")
        compared = compare_runs(args.run_folder, args.other, args.split, args.store, args.framework, args.aggregate)
        print(_differences(compared))
        print(f"Each was evaluated, too: {evaluation_file(args.split)} and what stands beside it are in both folders")
        return compared
    figures = evaluate_run(
        args.run_folder,
        args.split,
        args.store,
        args.framework,
        args.threshold_rule,
        args.threshold_split,
        args.aggregate,
    )
    print(_table(figures))
    print(f"Written into {args.run_folder}: {', '.join(_written(figures))}")
    return figures


def _written(figures: dict[str, Any]) -> list[str]:
    """Return the names of the files that `evaluate_run` wrote."""
    from anatobench.training.run_folder import evaluation_file

    split = figures["split"]
    return [
        evaluation_file(split),
        *([] if figures["auc"] is None else [f"predictions_{split}.csv"]),
        *([] if figures["organ_dice"] is None else [f"organ_dice_{split}.csv"]),
        f"examples_{split}.safetensors",
        f"worst_cases_{split}.safetensors",
    ]


def _differences(compared: dict[str, Any]) -> str:
    """Return one line per class and one for the macro mean."""
    names = [*(name for name in compared["difference"] if name != "macro"), "macro"]
    width = max(len(name) for name in names)
    lines = [f"{'':{width}} {'first':>9} {'second':>9} {'difference':>11}  95 % interval"]
    for name in names:
        values = [compared["auc"][0][name], compared["auc"][1][name], compared["difference"][name]]
        if values[2] is None:
            lines.append(f"{name:<{width}} undefined: one label value only")
            continue
        low, high = compared["ci95"][name]
        lines.append(
            f"{name:<{width}} {values[0]:>9.4f} {values[1]:>9.4f} {values[2]:>+11.4f}  {low:+.4f} to {high:+.4f}"
        )
    lines.append(
        f"AUC of {compared['runs'][1]} less that of {compared['runs'][0]}, {compared['patients']} patients of split "
        f"{compared['split']}, drawn alike for both; another seed of either training is not in the interval"
    )
    return "\n".join(lines)


def _table(figures: dict[str, Any]) -> str:
    """Return one line per class and one for the macro mean; of a model that does not classify, the organs' Dice."""
    from anatobench.evaluation.evaluation_file import judged_on
    from anatobench.evaluation.few_cases import few_cases_note

    if figures["auc"] is None:
        return _dice_table(figures)
    metrics = ("auc", *RATES)
    width = max(len(name) for name in figures["auc"])
    lines = [" ".join([" " * width, *(f"{metric:>13}" for metric in metrics), "  AUC 95 % interval"])]
    for name in [*(name for name in figures["auc"] if name != "macro"), "macro"]:
        values = [figures[metric][name] for metric in metrics]
        interval = figures["ci95"]["auc"][name]
        shown = "" if interval is None else f"  {interval[0]:.3f} to {interval[1]:.3f}"
        cells = [f"{'-' if value is None else format(value, '.4f'):>13}" for value in values]
        lines.append(" ".join([f"{name:<{width}}", *cells, shown]))
    lines.append(
        f"{judged_on(figures)} of split {figures['split']}, macro AUC over {figures['macro_classes']['auc']} of "
        f"{figures['classes']} classes, thresholds by {figures['threshold_rule']} on {figures['threshold_split']}"
    )
    lines += [f"undefined: {name}: {reason}" for name, reason in figures["undefined"].items()]
    return "\n".join([*lines, *filter(None, [few_cases_note(figures), _dice_line(figures["organ_dice"])])])


def _dice_line(dice: dict[str, float | None] | None) -> str:
    """Return the mean organ Dice, and that of each organ where these are few; empty without the auxiliary head."""
    if dice is None:
        return ""
    shown = {name: "-" if value is None else f"{value:.4f}" for name, value in dice.items()}
    mean = f"organ Dice, 0 to 1: mean {shown.pop('macro')}"
    organs = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"{mean} ({organs})" if len(shown) <= MOST_ORGANS else mean


def _dice_table(figures: dict[str, Any]) -> str:
    """Return one line per class of the auxiliary head's masks, and why there is no AUC."""
    dice = figures["organ_dice"] or {}
    width = max((len(name) for name in dice), default=0)
    lines = [f"{'':<{width}}   Dice, 0 to 1"] if dice else []
    for name in [*(name for name in dice if name != "macro"), *(name for name in dice if name == "macro")]:
        lines.append(f"{name:<{width}} {'-' if dice[name] is None else format(dice[name], '.4f'):>14}")
    lines.append(
        f"{figures['cases']} cases of split {figures['split']}; no AUC, since this run left the classifier as it was "
        "drawn: train --initial-weights with an export of it first"
    )
    return "\n".join(lines)
