"""Tables of a report: AUC beside the paper's, every class, and organ Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anatobench.datasets.medmnist3d import PUBLISHED, SETS
from anatobench.evaluation.few_cases import few_cases_note
from anatobench.experiments.published import ClassRow, published_auc, published_classes
from anatobench.report.html_parts import notes, paragraph, table
from anatobench.report.run_results import RunResults
from anatobench.report.summary import with_interval

PAPER = (
    "The paper's figures are of full-size models on the published data sets; a difference means something only for "
    "runs on the same data."
)
BENCHMARK = (
    "The benchmark's figure is of another model, larger than a tiny one, on the official test split with 28 voxels a "
    "side, and without an interval. It was read from a copy of the benchmark's table, not from the paper."
)
DICE = (
    "Of the auxiliary head, which upsamples the lowest feature map: it is there to supervise, not to segment. Against "
    "the given masks, in the crop that evaluation sees."
)
FROM_A_FILE = (
    "A run that began with --initial-weights is set beside the paper's model from scratch, since nothing says what the "
    "file holds."
)


def beside_paper(runs: Sequence[RunResults]) -> str:
    """Macro AUC of every evaluated run beside the same cell of the paper's Table 1; empty where the paper has none. A
    run that cannot be compared is named without a number."""
    rows, remarks, others = [], [], []
    for run in runs:
        config, segmentation = run.config, run.config.plan.papers_segmentation
        if segmentation is None or run.macro_auc is None:
            continue
        paper = published_auc(config.task.name, config.model, config.pretrained is not None, segmentation)
        if paper is None:
            continue
        if not _comparable(run):
            others.append(run.label)
            continue
        rows.append((*_beside(run.label, run.macro_auc, paper.auc, digits=4), paper.source))
        if paper.note:
            remarks.append(f"{run.label}: {paper.note}")
    left_out = (
        f"Not set beside the paper's figures, which are of full-size models on patients: {'; '.join(others)} (tiny "
        "model or synthetic cohort)."
    )
    said = paragraph(PAPER if rows else "", left_out if others else "")
    if rows and any(run.config.initial_weights is not None and run.config.pretrained is None for run in runs):
        remarks.append(FROM_A_FILE)
    header = ("run", "test AUC, macro", "the paper's", "difference, AUC points", "source")
    return said + table(header, rows) + notes(remarks)


def beside_benchmark(runs: Sequence[RunResults]) -> str:
    """Macro AUC of every evaluated run on one of MedMNIST's sets beside that of the set's own benchmark."""
    rows = []
    for run in runs:
        published = SETS[run.config.task.name].published_auc if run.config.task.name in SETS else None
        if published is not None and run.macro_auc is not None:
            rows.append((*_beside(run.label, run.macro_auc, published, digits=3), PUBLISHED))
    header = ("run", "test AUC, macro", "published", "difference, AUC points", "source")
    return paragraph(BENCHMARK) + table(header, rows) if rows else ""


def _beside(label: str, auc: float, published: float, digits: int) -> tuple[str, ...]:
    return label, f"{auc:.3f}", f"{published:.{digits}f}", f"{100 * (auc - published):+.1f}"


def class_table(runs: Sequence[RunResults]) -> str:
    """Test AUC per class with intervals and the positives among the known labels, beside the paper's where it prints
    classes for such a run."""
    tested = [(run, run.test) for run in runs if run.test is not None]
    if not tested:
        return ""
    papers = {_row_key(paper): paper for run, _ in tested if (paper := _published_classes(run)) is not None}
    rows, remarks = [], []
    for name in tested[0][0].config.task.class_names:
        positives = [_positives(test, name) for _, test in tested]
        cells = ["; ".join(positives) if len(set(positives)) > 1 else positives[0]]
        cells += [with_interval(test["auc"].get(name), test["ci95"]["auc"].get(name), digits=2) for _, test in tested]
        for paper in papers.values():
            published = paper.classes.get(name)
            cells.append("-" if published is None else f"{published.auc:.3f}")
            if published is not None and published.note:
                remarks.append(f"{published.source}, {name}: {published.note}")
        rows.append((name.replace("_", " "), *cells))
    remarks += [f"{key}: {paper.average.note}" for key, paper in papers.items() if paper.average.note]
    header = ("test AUC", "positives of known labels", *(run.label for run, _ in tested), *papers)
    return table(header, rows) + paragraph(few_cases_note(*(test for _, test in tested))) + notes(remarks)


def dice_table(runs: Sequence[RunResults]) -> str:
    """Mean organ Dice over the test scans that have a mask; empty without the auxiliary head."""
    found = [(run.label, dice.to_json(), len(dice.case_ids)) for run in runs if (dice := run.organ_dice) is not None]
    # The classes of partly annotated masks may be sets of organs.
    names = list(dict.fromkeys(name for _, figures, _ in found for name in figures))
    rows = []
    for label, figures, scans in found:
        values = ["-" if (value := figures.get(name)) is None else f"{value:.3f}" for name in names]
        rows.append((label, *values, str(scans)))
    header = ["mean" if name == "macro" else name.replace("_", " ") for name in names]
    return paragraph(DICE) + table(("Dice, 0 to 1", *header, "scans"), rows) if rows else ""


def _positives(test: Mapping[str, Any], name: str) -> str:
    """Return "4 of 12"; "-" where the evaluation does not say."""
    if "positives" not in test or "negatives" not in test:
        return "-"
    return f"{test['positives'][name]} of {test['positives'][name] + test['negatives'][name]}"


def _comparable(run: RunResults) -> bool:
    return run.config.size == "full" and not run.synthetic


def _published_classes(run: RunResults) -> ClassRow | None:
    config = run.config
    if config.plan.papers_segmentation is None or not _comparable(run):
        return None
    weight = config.recipe.segmentation_weight
    return published_classes(config.task.name, config.model, config.pretrained is not None, weight)


def _row_key(row: ClassRow) -> str:
    """Return how the table's header calls a row of the paper."""
    kind = "without" if row.segmentation_weight == 0 else f"weight {row.segmentation_weight:g}"
    return f"paper's {row.average.source}, {row.model}{', pretrained' if row.pretrained else ''}, segmentation {kind}"
