"""RATIC: the Kaggle competition `rsna-2023-abdominal-trauma-detection` as it is downloaded.

train.csv (or train_2024.csv)                     one row per patient, grades one-hot per organ
train_series_meta.csv                             one row per series
train_images/<patient_id>/<series_id>/<n>.dcm
segmentations/<series_id>.nii                     some series: 1 liver, 2 spleen, 3 left kidney, 4 right kidney, 5 bowel

A case is a series; labels are per patient. Patients are split at random in the paper's proportion.
"""

from __future__ import annotations

import re
from pathlib import Path

from anatobench.datasets.case import Case, Listing, Rejection
from anatobench.datasets.mask_files import find_mask, mask_note
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.splits import draw, with_validation
from anatobench.datasets.table import Row, Table, read_table
from anatobench.tasks import RATIC

NUMBER = re.compile(r"[0-9]{1,18}")
TRAIN_SHARE = 2500 / 3147
"""The paper's random split: 2,500 patients of 3,147 train, 647 test."""
LABEL_COLUMNS = tuple(f"{group.name}_{grade}" for group in RATIC.groups for grade in group.grades)
DOWNLOAD = "unpack the competition's files into this folder"


def list_cases(root: Path, options: ListingOptions | None = None) -> Listing:
    """Return every series of the Kaggle layout under `root`.

    `options.csv` names another label table than train.csv. A mask in `options.masks` (`<series_id>.nii.gz`) is
    preferred to Kaggle's own.
    """
    options = options or ListingOptions()
    labels = read_table(root / (options.csv or "train.csv"), ("patient_id", *LABEL_COLUMNS), DOWNLOAD)
    series = read_table(root / "train_series_meta.csv", ("patient_id", "series_id"), DOWNLOAD)
    targets, faults, notes = _patient_targets(labels)
    rejected = [*_malformed(labels), *_malformed(series)]
    splits = _splits(targets, options)
    cases: list[Case] = []
    rows, repeated = series.by_id("series_id")
    for series_id, lines in repeated.items():
        rejected.append(_rejection(series_id, series, "duplicate-id", f"series {series_id} stands in lines {lines}"))
    for row in rows.values():
        found = _case(root, row, targets, faults, splits, options)
        (cases if isinstance(found, Case) else rejected).append(found)  # type: ignore[arg-type]
    with_series = {row["patient_id"] for row in series.rows}
    for patient in sorted({*targets, *faults} - with_series):
        rejected.append(
            _rejection(patient, series, "no-series", f"patient {patient} of {labels.path.name} has no series")
        )
    notes.append(_split_note(splits, options))
    notes.append(mask_note(sum(case.mask is not None for case in cases), len(cases)))
    return Listing(RATIC, tuple(cases), tuple(rejected), tuple(notes))


def _patient_targets(labels: Table) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, str]], list[str]]:
    """Targets per patient; reason and message per patient without usable labels; notes."""
    rows, repeated = labels.by_id("patient_id")
    targets: dict[str, tuple[int, ...]] = {}
    faults = {
        patient: ("duplicate-id", f"patient {patient} stands in lines {lines} of {labels.path}")
        for patient, lines in repeated.items()
    }
    any_injury_differs = []
    for patient, row in rows.items():
        try:
            grades, stated = _grades(row), row.get("any_injury")
            if stated and _flag(stated) != int(any(grades)):
                any_injury_differs.append(patient)
            targets[patient] = grades
        except ValueError as error:
            faults[patient] = ("bad-label", f"{labels.path} line {row.line}, patient {patient}: {error}")
    notes = []
    if any_injury_differs:
        notes.append(
            f"any_injury of {len(any_injury_differs)} patient(s) contradicts the organs' columns "
            f"(for example {any_injury_differs[0]}): the organs' columns are used"
        )
    return targets, faults, notes


def _grades(row: Row) -> tuple[int, ...]:
    """Return the grade per group of a row whose groups are one-hot."""
    grades = []
    for group in RATIC.groups:
        values = [_flag(row[f"{group.name}_{grade}"]) for grade in group.grades]
        if sum(values) != 1:
            raise ValueError(f"{group.name} has {sum(values)} grades set instead of one")
        grades.append(values.index(1))
    return tuple(grades)


def _flag(text: str) -> int:
    if text not in ("0", "1", "0.0", "1.0"):
        raise ValueError(f"{text!r} is neither 0 nor 1")
    return int(float(text))


def _splits(targets: dict[str, tuple[int, ...]], options: ListingOptions) -> dict[str, str]:
    train = draw(targets, TRAIN_SHARE, options.seed, "ratic-train")
    splits = {patient: "train" if patient in train else "test" for patient in targets}
    return with_validation(splits, options.validation_fraction, options.seed)


def _case(
    root: Path,
    row: Row,
    targets: dict[str, tuple[int, ...]],
    faults: dict[str, tuple[str, str]],
    splits: dict[str, str],
    options: ListingOptions,
) -> Case | Rejection:
    patient, series = row["patient_id"], row["series_id"]
    scan = root / "train_images" / patient / series
    case_id = f"{patient}_{series}"
    if not NUMBER.fullmatch(patient) or not NUMBER.fullmatch(series):
        return Rejection(case_id, "train_series_meta.csv", "bad-id", f"line {row.line}: ids of RATIC are whole numbers")
    if patient in faults:
        return Rejection(case_id, str(scan), *faults[patient])
    if patient not in targets:
        return Rejection(case_id, str(scan), "no-labels", f"patient {patient} has no row in the label table")
    if not scan.is_dir():
        return Rejection(case_id, str(scan), "missing-scan", f"{scan} is missing: download it, or leave it out")
    mask, mask_labels = find_mask(options.masks, (series, case_id)), options.mask_labels
    if mask is None:
        mask, mask_labels = find_mask(root / "segmentations", (series,)), "ratic"
    return Case(case_id, patient, scan, splits[patient], targets[patient], mask, mask_labels if mask else "auto")


def _malformed(table: Table) -> list[Rejection]:
    return [
        _rejection(
            f"line-{line}",
            table,
            "malformed-row",
            f"{table.path} line {line} has another number of fields, an open quote, or bytes that are no UTF-8",
        )
        for line in table.malformed
    ]


def _rejection(case_id: str, table: Table, reason: str, message: str) -> Rejection:
    return Rejection(case_id, str(table.path), reason, message)


def _split_note(splits: dict[str, str], options: ListingOptions) -> str:
    counts = {name: sum(split == name for split in splits.values()) for name in ("train", "validation", "test")}
    return (
        f"split drawn per patient with seed {options.seed}: "
        + ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        + " patients (the paper trains on a random 2,500 of 3,147, its list is not public)"
    )
