"""Anybody's own data: one CSV file, one row per scan.

scan          NIfTI or NPZ file, or a folder with one DICOM series
split         train, validation or test
patient       optional; without it every scan is a patient of its own
case          optional; without it the scan's path names the case
mask          optional organ mask, or folder with one file per organ; mask_labels (optional) its label map
annotated     optional: which organs the mask annotates, as liver;spleen, or its source's template, as clip_driven/04
weight        optional: what the scan's classification loss is multiplied by in training, 1 where it is empty
label:<name>  one column per finding, or, with a built-in task, a column per group under the group's own name

Labels are 0/1 (or absent/present), for findings with grades (`ListingOptions.grades`) and graded groups the grade's
name or number from 0; an empty field is "not known".
Paths are relative to the CSV's folder and stay inside it, also where they are links or a folder of DICOM files holds
links. Absolute paths, and links that lead out, are followed only where the person allows it.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from anatobench.datasets.annotation import annotated_classes, annotated_note, named_classes
from anatobench.datasets.case import SAFE_CASE_ID, SPLITS, Case, Listing, Rejection, case_id_of_path, check_scan_leakage
from anatobench.datasets.grades import allowed_grades, balanced, grade_of, parse_case_weight
from anatobench.datasets.mask_files import find_mask, mask_note
from anatobench.datasets.options import MASK_LABELS, ListingOptions
from anatobench.datasets.splits import carve_validation
from anatobench.datasets.table import Row, Table, read_table
from anatobench.errors import AnatoBenchError, CaseError, UsageError
from anatobench.tasks import MISSING_TARGET, Geometry, LabelGroup, Task, get_task, multi_label_task
from anatobench.volumes.mask_templates import template_of
from anatobench.volumes.organs import AUTO

LABEL_PREFIX = "label:"
KNOWN_COLUMNS = ("scan", "split", "patient", "case", "mask", "mask_labels", "annotated", "weight")
ADVICE = "see `anatobench prepare --help` for the columns of a manifest"


def list_cases(root: Path, options: ListingOptions | None = None) -> Listing:
    """Return the cases of the manifest `root/manifest.csv`, or of `options.csv` in `root`."""
    options = options or ListingOptions()
    table = read_table(root / (options.csv or "manifest.csv"), ("scan", "split"), ADVICE)
    task = _task(table, options)
    columns = _label_columns(table, task)
    found = [_case(root, row, task, columns, options) for row in table.rows]
    rejected = [one for one in found if isinstance(one, Rejection)]
    for line in table.malformed:
        message = f"{table.path} line {line} has another number of fields, an open quote, or bytes that are no UTF-8"
        rejected.append(Rejection(f"line-{line}", str(table.path), "malformed-row", message))
    cases = [one for one in found if isinstance(one, Case)]
    repeated = {case_id for case_id, count in Counter(case.case_id for case in cases).items() if count > 1}
    for case in cases:
        if case.case_id in repeated:
            message = f"{table.path}: case {case.case_id} stands more than once"
            rejected.append(Rejection(case.case_id, str(case.scan), "duplicate-id", message))
    cases = [case for case in cases if case.case_id not in repeated]
    if options.validation_fraction and any(case.split == "validation" for case in cases):
        raise UsageError("the manifest has a validation split already: drop the validation fraction")
    cases = carve_validation(cases, options.validation_fraction, options.seed)
    check_scan_leakage(cases)
    notes = [mask_note(sum(case.mask is not None for case in cases), len(cases))]
    if "annotated" in table.header:
        notes.append(annotated_note(task, cases))  # an empty field is every class: seen here if it was not meant
    if options.weights is not None:
        groups, told = balanced(task.groups, cases)
        task, notes = replace(task, groups=groups), [*notes, *told]
    if any(case.weight != 1 for case in cases):
        task = replace(task, case_weights=True)
    return Listing(task, tuple(cases), tuple(rejected), tuple(notes))


def _task(table: Table, options: ListingOptions) -> Task:
    if options.task:
        if options.window is not None or options.spacing is not None:
            raise UsageError(
                "a built-in task has its own window, spacing and crop: give an anatomy instead of the task"
            )
        if options.grades or options.weights is not None:
            raise UsageError("a built-in task has its own grades and weights: give an anatomy instead of the task")
        return get_task(options.task)
    if not options.anatomy:
        raise UsageError("a manifest needs a built-in task or an anatomy (chest or abdomen)")
    labels = tuple(name.removeprefix(LABEL_PREFIX).strip() for name in table.header if name.startswith(LABEL_PREFIX))
    if not labels or not all(labels):
        shouted = [name for name in table.header if name.casefold().startswith(LABEL_PREFIX)]
        if shouted and not labels:
            raise AnatoBenchError(f"{table.path}: column {shouted[0]!r}: write {LABEL_PREFIX!r} in small letters")
        raise AnatoBenchError(f"{table.path} has no columns label:<name>: {ADVICE}")
    own = None if options.spacing is None or options.crop is None else Geometry.around(options.spacing, options.crop)
    return multi_label_task("manifest", options.anatomy, _graded(table, labels, options), options.window, own)


def _graded(table: Table, labels: tuple[str, ...], options: ListingOptions) -> tuple[str | LabelGroup, ...]:
    """Return the findings, those in `options.grades` with their grades."""
    groups = {group.name: group for group in options.grades}
    if len(groups) < len(options.grades):
        raise UsageError("a finding's grades were given twice: give each finding's once")
    for group in groups.values():
        if group.name not in labels:
            raise UsageError(
                f"grades of {group.name!r}: {table.path} has no column {LABEL_PREFIX}{group.name}: its findings are "
                f"{', '.join(labels)}"
            )
        if options.weights is not None and set(group.sample_weights) != {1.0}:
            raise UsageError(f"grades of {group.name!r} have weights already: leave them out, or weights=balanced")
    return tuple(groups.get(label, label) for label in labels)


def _label_columns(table: Table, task: Task) -> tuple[str, ...]:
    """Return the column of each group, `label:<name>` or `<name>`. Columns of no meaning are refused: they may be
    typos."""
    columns = []
    for group in task.groups:
        column = next((name for name in (f"{LABEL_PREFIX}{group.name}", group.name) if name in table.header), None)
        if column is None:
            raise AnatoBenchError(f"{table.path} has no column label:{group.name}: leave its fields empty if unknown")
        columns.append(column)
    unknown = [name for name in table.header if name not in (*KNOWN_COLUMNS, *columns)]
    if unknown:
        meant = unknown[0].casefold()
        if meant in (*KNOWN_COLUMNS, *columns) or meant.startswith(LABEL_PREFIX):
            raise AnatoBenchError(f"{table.path}: column {unknown[0]!r} means nothing here: write {meant!r}")
        if alike := get_close_matches(meant, KNOWN_COLUMNS, n=1, cutoff=0.75):
            raise AnatoBenchError(
                f"{table.path}: column {unknown[0]!r} means nothing here: write {alike[0]!r} if that is meant, or "
                f"for a finding {LABEL_PREFIX + unknown[0]!r}"
            )
        meant = f"{LABEL_PREFIX}{unknown[0].rpartition(':')[2]}"
        raise AnatoBenchError(
            f"{table.path}: column {unknown[0]!r} means nothing here: for a finding write {meant!r}; {ADVICE}"
        )
    return tuple(columns)


def _case(root: Path, row: Row, task: Task, columns: tuple[str, ...], options: ListingOptions) -> Case | Rejection:
    case_id = row.get("case") or case_id_of_path(row["scan"])
    try:
        if not SAFE_CASE_ID.fullmatch(case_id):
            raise CaseError(
                "bad-id", f"case {case_id!r}: start with a letter or digit, go on with those, '.', '_', '-'"
            )
        if row["split"] not in SPLITS:
            raise CaseError("bad-split", f"split {row['split']!r}: choose one of {', '.join(SPLITS)}")
        scan = _path(root, row["scan"], options)
        if not scan.exists():
            raise CaseError("missing-scan", f"{scan} is missing")
        groups = zip(task.groups, columns, strict=True)
        targets = tuple(_grade(group, row[column]) for group, column in groups)
        mask, mask_labels = _mask(root, row, case_id, options)
        annotated = _annotated(row, task, mask)
        weight = _weight(row)
        patient = row.get("patient") or case_id
        case = Case(
            case_id, patient, scan, row["split"], targets, mask, mask_labels, annotated=annotated, weight=weight
        )
        annotated_classes(case, task)  # refuses what does not go together
    except CaseError as error:
        return Rejection(case_id, row["scan"], error.reason, f"line {row.line}: {error}")
    except OSError as error:  # a name that no file can have, a folder that may not be entered
        return Rejection(case_id, row["scan"], "bad-path", f"line {row.line}: {row['scan'][:80]}: {error.strerror}")
    return case


def _path(root: Path, text: str, options: ListingOptions) -> Path:
    path = PurePosixPath(text)
    if not text or ".." in path.parts or "\0" in text:
        raise CaseError("bad-path", f"path {text!r}: paths stay inside the manifest's folder")
    if path.is_absolute() and not options.allow_absolute:
        raise CaseError("bad-path", f"path {text!r} is absolute: give --allow-absolute, or make it relative")
    if not options.allow_absolute:
        _refuse_leaving(root, text)
    return root / path


def _refuse_leaving(root: Path, text: str) -> None:
    """Raise `CaseError` if a path, or anything in the folder that it names, is a link out of the manifest's folder:
    whoever wrote the manifest would have files read that the one who prepares it never meant to give."""
    inside = os.path.realpath(root)
    paths = [root / text]
    for folder, folders, files in os.walk(root / text):
        paths += [link for name in (*folders, *files) if (link := Path(folder, name)).is_symlink()]
    for path in paths:
        target = Path(os.path.realpath(path))  # which links that lead round in a circle do not disturb
        if not target.is_relative_to(inside):
            raise CaseError(
                "bad-path",
                f"path {text!r} leads out of the manifest's folder: {path} is {target}: allow absolute paths "
                "explicitly (--allow-absolute), or copy the files there",
            )


def _grade(group: LabelGroup, text: str) -> int:
    if not text:
        return MISSING_TARGET
    grade = grade_of(group, text)
    if grade is None:
        raise CaseError("bad-label", f"{group.name} is {text!r}: write one of {allowed_grades(group)}, or nothing")
    return grade


def _weight(row: Row) -> float:
    weight = parse_case_weight(row.get("weight"))
    if weight is None:
        raise CaseError("bad-weight", f"weight {row['weight']!r}: give a number from 1e-6 to 1e6, or nothing for 1")
    return weight


def _annotated(row: Row, task: Task, mask: Path | None) -> tuple[str, ...] | None:
    """Return the classes that the row names; None for all."""
    text = row.get("annotated")
    if not text:
        return None
    if template_of(text) is not None:
        return None  # as its label map says: see `_mask`
    if mask is None:
        raise CaseError("bad-annotated", f"annotated {text!r}: there is no mask: give one, or leave the field empty")
    return named_classes(task, text)


def _mask(root: Path, row: Row, case_id: str, options: ListingOptions) -> tuple[Path | None, str]:
    from_folder = find_mask(options.masks, (case_id,))
    if from_folder is not None:
        return from_folder, _mask_labels(row, options.mask_labels)
    if not row.get("mask"):
        return None, "auto"
    mask_labels = _mask_labels(row, row.get("mask_labels") or AUTO)
    if mask_labels not in MASK_LABELS:
        raise CaseError("bad-mask-labels", f"mask_labels {mask_labels!r}: choose one of {', '.join(MASK_LABELS)}")
    mask = _path(root, row["mask"], options)
    if not mask.is_file() and not mask.is_dir():
        raise CaseError("missing-mask", f"{mask} is missing: leave the field empty if there is no mask")
    return mask, mask_labels


def _mask_labels(row: Row, stated: str) -> str:
    """Return the label map of the row's mask: the template that says what is annotated, or else the one stated."""
    annotated = row.get("annotated")
    if template_of(annotated) is None or stated == annotated:
        return stated
    if stated != AUTO:
        raise CaseError(
            "bad-annotated", f"annotated {annotated!r} is a label map, too, and {stated} is another: choose"
        )
    return annotated
