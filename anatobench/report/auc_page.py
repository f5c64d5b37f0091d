"""The page of the AUC study: what it says, its tables, and one plot in which every run is a point."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from anatobench import __version__
from anatobench.evaluation.predictions import default_aggregation
from anatobench.experiments.auc_results import (
    AUC_HEADER,
    DIFFERENCE_HEADER,
    DIFFERENCES,
    GAIN_HEADER,
    POOLED,
    auc_rows,
    difference_rows,
    gain_rows,
)
from anatobench.experiments.results import FRAMEWORK_NAMES
from anatobench.phantom.plan import WITH_INJURIES
from anatobench.report.html_parts import header, html_page, paragraph, section, table
from anatobench.report.plots import COLOURS, STYLE, image, mean_and_interval
from anatobench.tasks import get_task

TITLE = "AUC of both frameworks, with and without segmentation supervision"


def build_auc_page(record: Mapping[str, Any]) -> str:
    """Return the whole page from a record of `experiments.auc_results`."""
    sections = [
        header(TITLE, _facts(record), ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
        section("Test AUC of every run", _every_run(record) + table(AUC_HEADER, auc_rows(record))),
        section("Do the frameworks reach the same AUC?", _same(record) + _differences(record)
                + table(DIFFERENCE_HEADER, difference_rows(record))),
        section("What does segmentation supervision gain?", _gain(record) + table(GAIN_HEADER, gain_rows(record))),
        section("How to read this", _reading(record)),
    ]  # fmt: skip
    return html_page(TITLE, sections)


def _facts(record: Mapping[str, Any]) -> str:
    study = record["study"]
    injuries = f", {study['injuries']} injuries" if study["task"] in WITH_INJURIES else ""
    return (
        f"{study['cases']} synthetic patients ({study['task']}{injuries}), tiny models, {study['steps']} steps of "
        f"{study['batch_size']} cases, {study['seeds']} seeds, on {record['device']}. AnatoBench {__version__}"
    )


def _every_run(record: Mapping[str, Any]) -> str:
    models = record["study"]["models"]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(models), figsize=(3.4 * len(models) + 0.6, 3.0), layout="constrained", sharey=True, squeeze=False
        )
        for axes, model in zip(grid.flat, models, strict=True):
            _points_of(axes, [cell for cell in record["cells"] if cell["model"] == model])
            axes.set_title(model)
        grid.flat[0].set_ylabel("test AUC, macro")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return image(figure, f"Test AUC of every run of {', '.join(models)}, with and without segmentation supervision")


def _points_of(axes: Axes, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draw one line per seed and framework, from without to with supervision."""
    shift = {"torch": -0.06, "jax": 0.06}
    for framework, name in FRAMEWORK_NAMES.items():
        for number, seed in enumerate(sorted({cell["seed"] for cell in cells})):
            pair = {c["segmentation"]: c["auc"]["macro"] for c in cells
                    if c["framework"] == framework and c["seed"] == seed and not c["nudged"]}  # fmt: skip
            axes.plot(
                [shift[framework], 1 + shift[framework]],
                [pair[False], pair[True]],
                marker="o",
                markersize=4,
                linewidth=0.8,
                color=COLOURS[framework],
                label=name if number == 0 else None,
            )
    axes.set_xticks([0, 1], ["without\nsegmentation", "with\nsegmentation"])
    axes.set_xlim(-0.4, 1.4)


def _differences(record: Mapping[str, Any]) -> str:
    """Means and 95 % intervals of the frameworks' differences and the control's, with the margin."""
    kinds = {"framework_difference": COLOURS["jax"], "control_difference": COLOURS["torch"]}
    rows = [(row, kinds[kind]) for kind in DIFFERENCES.values() for row in record[kind]]
    names = [cells[0] for cells in difference_rows(record)]
    shown = [(name, row, colour) for name, (row, colour) in zip(names, rows, strict=True) if row["low"] is not None]
    if not shown:
        return ""
    margin = 100 * record["study"]["margin"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 0.3 * len(shown) + 1.0), layout="constrained")
        axes.axvspan(-margin, margin, color="#1c2126", alpha=0.07, linewidth=0)
        axes.axvline(0, color="#5b6670", linewidth=0.8)
        for position, (_, row, colour) in enumerate(shown):
            mean_and_interval(axes, row, position, colour, markersize=5)
        axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel("AUC points (grey: margin of equivalence)")
    return image(figure, "Differences of AUC with 95 % intervals and the margin of equivalence")


def _same(record: Mapping[str, Any]) -> str:
    row = next(row for row in record["framework_difference"] if row["model"] == POOLED)
    margin = f"{100 * record['study']['margin']:.0f} AUC points"
    if row["equivalent"] is None:
        return "<p>One seed is no basis for a test.</p>"
    verdict = (
        f"are equivalent within {margin}" if row["equivalent"] else f"were not shown to be equivalent within {margin}"
    )
    low, high = 100 * row["low"], 100 * row["high"]
    return (
        f"<p>Over all pairs of runs the frameworks {verdict}: JAX - PyTorch is {100 * row['mean']:+.2f} AUC points, "
        f"95 % interval {low:+.2f} to {high:+.2f}, two one-sided t tests p = {row['p_value']:.2g}.</p>"
    )


def _gain(record: Mapping[str, Any]) -> str:
    sentences = []
    for row in record["segmentation_gain"]:
        if row["framework"] != POOLED:
            continue
        if row["low"] is None:
            shown = "one seed"
        elif row["low"] > 0:
            shown = "a gain"
        else:
            shown = "a loss" if row["high"] < 0 else "no difference shown"
        sentences.append(f"{row['model']} {100 * row['mean']:+.1f} AUC points ({shown})")
    return f"<p>{html.escape('; '.join(sentences))}.</p>"


def _reading(record: Mapping[str, Any]) -> str:
    task = get_task(record["study"]["task"])
    dropout = record["study"]["dropout"]
    draws = ", and by what each framework's dropout draws" if dropout else "; dropout is off"
    unit = (
        "patients judged by the mean of their scans"
        if default_aggregation(task) == "mean"
        else "one judgement per scan"
    )
    return paragraph(
        "A seed moves the initial weights, the order of cases, the crops and what dropout draws, if it is on. The "
        "cohort and its split are the same for all runs, so the intervals are over trainings, not over cohorts.",
        "Both frameworks of a pair begin with the same weights and see the same batches. They part by rounding, which "
        f"training amplifies{draws}. How much rounding alone can do shows the control: PyTorch once more, from the "
        "same weights on the same batches, its learning rate larger by a millionth.",
        f"AUC is the macro average over the {len(task.class_names)} columns of {task.name}, {unit}. These are tiny "
        "models on a synthetic cohort: the paper's gains, of full-size models on patients, are not set beside them.",
    )
