"""RAD-ChestCT (Zenodo 6406114) as it is downloaded: one folder of `.npz` files and CSV tables.

<NoteAcc_DEID>.npz
{imgtrain,imgvalid,imgtest}_Abnormality_and_Location_Labels.csv    columns `<abnormality>*<location>`
CT_Scan_Metadata_Complete_35747.csv                                MRN_DEID, the patient (optional)

A class is present if any location of any of its abnormalities is. Columns are matched by the exact prefix
`<abnormality>*`: `nodule` is not `nodulegr1cm`, `calcification` not `scattered_calc`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anatobench.datasets.case import SAFE_CASE_ID, Case, Listing, Rejection
from anatobench.datasets.mask_files import find_mask, mask_note
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.splits import carve_validation
from anatobench.datasets.table import Row, Table, read_table
from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json
from anatobench.tasks import RAD_CHESTCT_LABELS, get_task

SUBSETS = {"imgtrain": "train", "imgvalid": "train", "imgtest": "test"}
"""The paper's 2,646 training and 984 test scans are imgtrain with imgvalid, and imgtest."""
METADATA = "CT_Scan_Metadata_Complete_35747.csv"
DOWNLOAD = "download RAD-ChestCT's label tables into the folder of its .npz files"
MAX_MAPPING_BYTES = 1 << 20

Columns = Mapping[str, Sequence[str]]
"""Class to the table's columns that count as it."""


def list_cases(root: Path, options: ListingOptions | None = None) -> Listing:
    """Return every scan that the label tables name and whose `.npz` lies in `root`; the others are counted in a
    note."""
    options = options or ListingOptions()
    mapping = read_mapping(options.mapping)
    patients, notes = _patients(root / METADATA)
    cases: list[Case] = []
    rejected: list[Rejection] = []
    for subset, split in SUBSETS.items():
        table = read_table(root / f"{subset}_Abnormality_and_Location_Labels.csv", ("NoteAcc_DEID",), DOWNLOAD)
        columns = class_columns(table, mapping)
        if subset == "imgvalid" and options.keep_validation:
            split = "validation"
        missing = _list_subset(root, table, columns, split, patients, options, cases, rejected)
        if missing:
            notes.append(f"{subset}: {missing} rows dropped because their .npz is not in {root}")
    if not options.keep_validation:
        cases = carve_validation(cases, options.validation_fraction, options.seed)
    counts = {name: sum(case.split == name for case in cases) for name in ("train", "validation", "test")}
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    notes.append(f"{shown} scans (the paper: 2,646 train, 984 test)")
    notes.append(mask_note(sum(case.mask is not None for case in cases), len(cases)))
    return Listing(get_task("rad_chestct"), tuple(cases), tuple(rejected), tuple(notes))


def read_mapping(path: Path | None) -> dict[str, tuple[str, ...]]:
    """Class to abnormalities: each class means the abnormality of its name, unless the JSON file says otherwise."""
    mapping: dict[str, tuple[str, ...]] = {label: (label,) for label in RAD_CHESTCT_LABELS}
    if path is None:
        return mapping
    advice = 'write a JSON object such as {"nodule": ["nodule", "nodulegr1cm"]}'
    try:
        if path.stat().st_size > MAX_MAPPING_BYTES:
            raise AnatoBenchError(f"{path} is too large for a mapping: {advice}")
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnatoBenchError(f"{path} is no readable mapping ({error}): {advice}") from error
    if not isinstance(data, dict):
        raise AnatoBenchError(f"{path} is no mapping: {advice}")
    for label, abnormalities in data.items():
        if label not in mapping:
            raise AnatoBenchError(f"{path}: {label!r} is no class; there are {', '.join(RAD_CHESTCT_LABELS)}")
        named = isinstance(abnormalities, list) and all(isinstance(name, str) for name in abnormalities)
        if not named or not abnormalities:
            raise AnatoBenchError(f"{path}: {label} needs a list of abnormalities: {advice}")
        mapping[label] = tuple(abnormalities)
    return mapping


def class_columns(table: Table, mapping: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each class: those that start with `<abnormality>*`, star included."""
    found: dict[str, tuple[str, ...]] = {}
    for label, abnormalities in mapping.items():
        columns: list[str] = []
        for abnormality in abnormalities:
            matching = [name for name in table.header if name.startswith(f"{abnormality}*")]
            if not matching:
                raise AnatoBenchError(f"{table.path} has no column {abnormality}*<location>: {DOWNLOAD}")
            columns += matching
        found[label] = tuple(columns)
    return found


def _list_subset(
    root: Path,
    table: Table,
    columns: Columns,
    split: str,
    patients: Mapping[str, str],
    options: ListingOptions,
    cases: list[Case],
    rejected: list[Rejection],
) -> int:
    """Append the cases and rejections of one label table; return how many rows have no file."""
    missing = 0
    rows, repeated = table.by_id("NoteAcc_DEID")
    for name, lines in repeated.items():
        rejected.append(Rejection(name, str(table.path), "duplicate-id", f"{name} stands in lines {lines}"))
    for line in table.malformed:
        message = f"{table.path} line {line} has another number of fields, an open quote, or bytes that are no UTF-8"
        rejected.append(Rejection(f"line-{line}", str(table.path), "malformed-row", message))
    for name, row in rows.items():
        if not SAFE_CASE_ID.fullmatch(name):
            message = f"{table.path} line {row.line}: {name!r} is no file name"
            rejected.append(Rejection(name, str(table.path), "bad-id", message))
            continue
        scan = root / f"{name}.npz"
        if not scan.is_file():
            missing += 1
            continue
        try:
            targets = tuple(int(any(_flag(row, column) for column in names)) for names in columns.values())
        except ValueError as error:
            rejected.append(Rejection(name, str(scan), "bad-label", f"{table.path} line {row.line}: {error}"))
            continue
        mask = find_mask(options.masks, (name,))
        mask_labels = options.mask_labels if mask else "auto"
        cases.append(Case(name, patients.get(name, name), scan, split, targets, mask, mask_labels))
    return missing


def _flag(row: Row, column: str) -> bool:
    """0 or 1, maybe written as a float; an empty field or NaN is 0."""
    text = row[column]
    if text in ("0", "0.0", "", "nan", "NaN"):
        return False
    if text in ("1", "1.0"):
        return True
    raise ValueError(f"{column} is {text!r}, neither 0 nor 1")


def _patients(path: Path) -> tuple[dict[str, str], list[str]]:
    """MRN_DEID by accession."""
    if not path.is_file():
        return {}, [f"{path} is missing: every scan counts as a patient of its own, leakage cannot be checked"]
    table = read_table(path, ("NoteAcc_DEID", "MRN_DEID"), DOWNLOAD)
    return {row["NoteAcc_DEID"]: f"MRN_{row['MRN_DEID']}" for row in table.rows if row["MRN_DEID"]}, []
