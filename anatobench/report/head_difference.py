"""What the segmentation head changed: AUC with it less AUC without it, on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import permutations

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.difference import auc_difference
from anatobench.report.html_parts import paragraph, table
from anatobench.report.run_results import RunResults

TEXT = (
    "Of runs that differ in the segmentation head alone. In each bootstrap replicate the same patients are drawn for "
    "both; that another seed of either training moves the difference as well, the interval does not know."
)


def head_differences(runs: Sequence[RunResults]) -> str:
    """Return a row per pair, as `anatobench evaluate WITHOUT WITH` finds it; empty where no pair judged the same cases
    with the same labels, or no class has an AUC."""
    rows = []
    for plain, headed in permutations(runs, 2):
        if plain.predictions is None or headed.predictions is None or not _differ_in_the_head_alone(plain, headed):
            continue
        with suppress(AnatoBenchError):  # other cases or labels
            seed = plain.config.recipe.seed
            found = auc_difference(plain.predictions, headed.predictions, plain.aggregation, seed=seed)
            difference, ends = found["difference"]["macro"], found["ci95"]["macro"]
            if difference is not None and ends is not None:
                shown = f"{difference:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
                rows.append((f"{headed.label} / {plain.label}", shown, str(found["patients"])))
    columns = ("with the head less without", "AUC difference, macro [95 % interval]", "patients")
    return table(columns, rows) + paragraph(TEXT if rows else "")


def _differ_in_the_head_alone(plain: RunResults, headed: RunResults) -> bool:
    pair = (plain.config, headed.config)
    alike = [replace(config, recipe=replace(config.recipe, segmentation_weight=0.0)) for config in pair]
    return headed.config.segmentation and not plain.config.segmentation and alike[0] == alike[1]
