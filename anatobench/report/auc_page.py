"""The page of the AUC study: what it says, its tables, and one plot in which every run is a point."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from anatobench import __version__
from anatobench.evaluation.predictions import default_aggregation
from anatobench.experiments import auc_results
from anatobench.experiments.results import FRAMEWORK_NAMES
from anatobench.phantom.plan import WITH_INJURIES
from anatobench.report.html_parts import html_page, paragraph, table
from anatobench.report.plots import COLOURS, image, legend_below, mean_and_interval, panel, panels_in_a_row
from anatobench.tasks import get_task

GAIN_COLOUR = "#2f7d4f"
SHIFT = {"torch": -0.06, "jax": 0.06}
PANEL = (3.4, 3.0)
"""Inches of one of several plots in a row."""
TITLE = "AUC of both frameworks, with and without segmentation supervision"


def build_auc_page(record: Mapping[str, Any]) -> str:
    """Return the whole page from a record of `experiments.auc_results`."""
    declared = _declared(record) + table(*auc_results.hypothesis_table(record))
    gains = table(*auc_results.gain_table(record)) + table(*auc_results.class_table(record))
    sections = {
        "What was declared, and what was shown": declared,
        "Pairs, control and gain at one look": _every_run(record) + _differences(record),
        "Test AUC of every run": table(*auc_results.arm_table(record)) + table(*auc_results.auc_table(record)),
        "Do the frameworks reach the same AUC?": table(*auc_results.difference_table(record)),
        "What does segmentation supervision gain?": gains,
        "Why single runs part": _curves(record),
        "Learning rates": _choice(record),
        "How to read this": _reading(record),
    }
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return html_page(TITLE, sections, _facts(record), versions)


def _facts(record: Mapping[str, Any]) -> str:
    study, cohort = record["study"], record["cohort"]
    injuries = f", {study['injuries']} injuries" if study["task"] in WITH_INJURIES else ""
    return (
        f"{study['cases']} synthetic patients ({study['task']}{injuries}; scans: {cohort['train']} training, "
        f"{cohort['validation']} validation, {cohort['test']} test), {study['size']} models, {study['steps']} steps of "
        f"{study['batch_size']} cases, {len(record['seeds'])} of {study['seeds']} seeds, on {record['device']}. "
        f"AnatoBench {__version__}"
    )


def _declared(record: Mapping[str, Any]) -> str:
    kept = record["plan"]
    if kept is None:
        return paragraph("A pilot: nobody declared this study before it ran, so its tests are orientation.")
    plan = kept["plan"]
    items = "".join(f"<li>{html.escape(name)}: {html.escape(said)}</li>" for name, said in plan["analysis"].items())
    powers, changes = [], []
    for row in plan["hypotheses"]:
        if row["deviation"] is not None:
            seeds = "over 1000 seeds" if row["seeds_needed"] is None else f"{row['seeds_needed']} seeds"
            power = "none" if row["power"] is None else f"{row['power']:.2f}"
            needed = f"{row['statement']}: {seeds} for a power of {plan['wished_power']:g}"
            powers.append(f"{needed}, {power} with the declared {plan['study']['seeds']}")
    for change in kept["changes"]:
        what = "; ".join(f"{name}: {was} -> {now}" for name, (was, now) in change["changed"].items()) or "words"
        changes.append(f"{change['day']}, {change['runs_done']} runs being done: {what} ({change['reason']})")
    changed = html.escape("; ".join(changes) or "nothing")
    deviations = f"<p>By the pilot's deviations: {html.escape('; '.join(powers))}.</p>" if powers else ""
    return (
        f"<p>Declared on {html.escape(plan['declared'])}, before its runs; SHA-256 of the plan "
        f"<code>{html.escape(kept['digest'])}</code>. Changed since: {changed}.</p><ul>{items}</ul>{deviations}"
    )


def _every_run(record: Mapping[str, Any]) -> str:
    """Every run a point; a line per seed and framework, from without to with supervision."""
    models = record["study"]["models"]
    with panels_in_a_row(len(models), PANEL) as (figure, panels):
        for axes, model in zip(panels, models, strict=True):
            for framework, name in FRAMEWORK_NAMES.items():
                cells = [cell for cell in record["cells"] if not cell["nudged"]
                         and (cell["model"], cell["framework"]) == (model, framework)]  # fmt: skip
                for seed in sorted({cell["seed"] for cell in cells}):
                    pair = {cell["segmentation"]: cell["auc"]["macro"] for cell in cells if cell["seed"] == seed}
                    places = [SHIFT[framework], 1 + SHIFT[framework]]
                    axes.plot(places, [pair[False], pair[True]], marker="o", markersize=4, linewidth=0.8,
                              color=COLOURS[framework], label=name)  # fmt: skip
            axes.set(title=model, xlim=(-0.4, 1.4))
            axes.set_xticks([0, 1], ["without\nsegmentation", "with\nsegmentation"])
        panels[0].set_ylabel("test AUC, macro")
        legend_below(figure, panels[0], columns=2)
    return image(figure, f"Test AUC of every run of {', '.join(models)}, with and without segmentation supervision")


def _differences(record: Mapping[str, Any]) -> str:
    """Means and 95 % intervals over seeds of differences, control and gains, with the margin."""
    kinds = {"framework_difference": COLOURS["jax"], "control_difference": COLOURS["torch"]}
    rows = [(row, kinds[kind]) for kind in auc_results.DIFFERENCES.values() for row in record[kind]]
    rows += [(row, GAIN_COLOUR) for row in record["segmentation_gain"]]
    names = [cells[0] for cells in auc_results.difference_table(record).rows]
    names += [f"gain, {cells[0]}" for cells in auc_results.gain_table(record).rows]
    shown = [(name, row, colour) for name, (row, colour) in zip(names, rows, strict=True) if row["low"] is not None]
    if not shown:
        return ""
    margin = 100 * record["study"]["margin"]
    with panel(inches=(7.5, 0.3 * len(shown) + 1.0)) as (figure, axes):
        axes.axvspan(-margin, margin, color="#1c2126", alpha=0.07, linewidth=0)
        axes.axvline(0, color="#5b6670", linewidth=0.8)
        for position, (_, row, colour) in enumerate(shown):
            mean_and_interval(axes, row, position, colour, markersize=5)
        axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel("AUC points (grey: margin of equivalence)")
    return image(figure, "Differences of AUC and gains with 95 % intervals and the margin of equivalence")


def _curves(record: Mapping[str, Any]) -> str:
    """AUC of validation cases by step, of both frameworks and the control, a panel per model and arm."""
    arms = [(model, segmentation) for model in record["study"]["models"] for segmentation in (True, False)]
    if not any(cell["curve"] for cell in record["cells"]):
        return ""
    with panels_in_a_row(len(arms), PANEL) as (figure, panels):
        for axes, (model, segmentation) in zip(panels, arms, strict=True):
            for cell in record["cells"]:
                if (cell["model"], cell["segmentation"]) == (model, segmentation) and cell["curve"]:
                    name = FRAMEWORK_NAMES[cell["framework"]] + (" nudged (control)" if cell["nudged"] else "")
                    axes.plot(*zip(*cell["curve"], strict=True), color=COLOURS[cell["framework"]], linewidth=0.8,
                              alpha=0.8, linestyle=":" if cell["nudged"] else "-", label=name)  # fmt: skip
            axes.axhline(0.5, color="#5b6670", linewidth=0.6)
            axes.set_title(auc_results.arm_name({"model": model, "segmentation": segmentation}), fontsize=9)
            axes.set_xlabel("step")
        panels[0].set_ylabel("AUC of validation cases, macro")
        legend_below(figure, panels[0], columns=3)
    said = paragraph(
        "A line per run. Runs of one seed and arm began with the same weights and saw the same batches, compared to "
        "the bit when this record was made; where their lines part, rounding alone has parted them."
    )
    return said + image(figure, "AUC of validation cases by training step")


def _choice(record: Mapping[str, Any]) -> str:
    """How each arm came to its learning rate."""
    rows = []
    for row in record["choice"]:
        tried = ", ".join(f"{rate}: {auc:.3f}" for rate, auc in row["validation"].items())
        rows.append((auc_results.arm_name(row), tried, f"{row['chosen']:g}"))
    said = (
        "Every arm was given the same effort: one run per rate and seed of its own, judged by the AUC of validation "
        "patients."
    )
    return paragraph(said) + table(("arm", "validation AUC by rate", "taken"), rows) if rows else ""


def _reading(record: Mapping[str, Any]) -> str:
    task = get_task(record["study"]["task"])
    draws = ", and by what each framework's dropout draws" if record["study"]["dropout"] else "; dropout is off"
    by_patient = default_aggregation(task) == "mean"
    unit = "patients judged by the mean of their scans" if by_patient else "one judgement per scan"
    return paragraph(
        "A seed moves the initial weights, the order of cases, the crops and what dropout draws, if it is on. The "
        "cohort and its split are the same for all runs, so the first interval is over trainings alone; for the second "
        "the test patients are drawn anew as well.",
        "Both frameworks of a pair begin with the same weights and see the same batches. They part by rounding, which "
        f"training amplifies{draws}. How much rounding alone can do shows the control: PyTorch once more, from the "
        "same weights on the same batches, its learning rate larger by a millionth.",
        f"AUC is the macro average over the {len(task.class_names)} columns of {task.name}, {unit}. These are tiny "
        "models on a synthetic cohort: the paper's gains, of full-size models on patients, are not set beside them.",
    )
