"""CT-RATE (Hugging Face `ibrahimhamamci/CT-RATE`) as it is downloaded: original and `_fixed` files.

dataset/{train,valid}[_fixed]/<patient>/<study>/<volume>.nii.gz
dataset/multi_abnormality_labels/{train,valid}_predicted_labels.csv
dataset/metadata/{train,validation}_metadata.csv          (`validation`, where everything else says `valid`)
dataset/metadata/no_chest_{train,valid}.txt
dataset/ts_seg/ts_total/{train,valid}_fixed/...           TotalSegmentator v2 masks of the `_fixed` files

A case is a reconstruction. Patient numbers restart: train_1 and valid_1 are different people. The official valid
split is the test split here. Original files hold raw stored values and a blank header; see `ct_rate_header`.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from anatobench.datasets.case import Case, Listing, Rejection
from anatobench.datasets.ct_rate_header import header_override
from anatobench.datasets.mask_files import find_mask, mask_note
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.splits import with_validation
from anatobench.datasets.table import Row, read_table
from anatobench.errors import AnatoBenchError, CaseError
from anatobench.system.progress import progress_bar
from anatobench.tasks import CT_RATE_LABELS, get_task

VOLUME_NAME = re.compile(r"((train|valid)_[1-9][0-9]*)_([a-z]+)_([1-9][0-9]*)\.nii\.gz")
SPLITS = {"train": ("train", "train_metadata.csv"), "valid": ("test", "validation_metadata.csv")}
"""CT-RATE's split: the split here, and the name of its metadata."""
METADATA = ("VolumeName", "RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")
KNOWN_BAD = frozenset({"train_1267_a_4", "train_11755_a_3", "train_11755_a_4"})
"""Reconstructions that public code leaves out as broken."""
READING_THREADS = 16
"""Listing reads the first bytes of every file: latency, not bandwidth."""
DOWNLOAD = "download CT-RATE's folder `dataset` with its labels and metadata into this folder"


@dataclass(frozen=True)
class _Candidate:
    """A row of a label table with all that belongs to it."""

    row: Row
    split: str
    """CT-RATE's: train or valid."""
    metadata: Row | None
    excluded: str


def list_cases(root: Path, options: ListingOptions | None = None) -> Listing:
    """Return every reconstruction that the label tables under `root` (or `root/dataset`) name.

    `options.rescale`: `auto` tells raw files from HU by header and metadata and refuses what it cannot tell; `raw` and
    `hu` state it, and files whose header says otherwise are refused.
    """
    options = options or ListingOptions()
    dataset = root / "dataset" if (root / "dataset").is_dir() else root
    candidates, rejected, notes = _candidates(dataset, options)
    patients = {_patient(c.row["VolumeName"]): SPLITS[c.split][0] for c in candidates}
    splits = with_validation(patients, options.validation_fraction, options.seed)
    excluded = [c for c in candidates if c.excluded]
    if excluded:
        notes.append(f"{len(excluded)} volumes left out: " + "; ".join(sorted({c.excluded for c in excluded})))
    kept = [c for c in candidates if not c.excluded]
    with ThreadPoolExecutor(READING_THREADS) as pool:
        found = pool.map(lambda candidate: _case(dataset, candidate, splits, options), kept)
        results = []
        with progress_bar(len(kept), "list ct_rate", "volume", delay=2.0) as bar:
            for one in found:
                results.append(one)
                bar.update()
    cases = tuple(one for one in results if isinstance(one, Case))
    rejected += [one for one in results if isinstance(one, Rejection)]
    raw = sum(case.header is not None for case in cases)
    notes.append(f"{raw} volumes hold raw stored values and are rescaled by the metadata, {len(cases) - raw} hold HU")
    notes.append(mask_note(sum(case.mask is not None for case in cases), len(cases)))
    return Listing(get_task("ct_rate"), cases, tuple(rejected), tuple(notes))


def _candidates(dataset: Path, options: ListingOptions) -> tuple[list[_Candidate], list[Rejection], list[str]]:
    candidates: list[_Candidate] = []
    rejected: list[Rejection] = []
    notes: list[str] = []
    for split, (_, metadata_name) in SPLITS.items():
        path = dataset / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        if not path.is_file():
            notes.append(f"no {split} split: {path} is missing")
            continue
        labels = read_table(path, ("VolumeName", *CT_RATE_LABELS), DOWNLOAD)
        rows, repeated = labels.by_id("VolumeName")
        for name, lines in repeated.items():
            rejected.append(Rejection(_stem(name), str(path), "duplicate-id", f"{name} stands in lines {lines}"))
        for line in labels.malformed:
            message = f"{path} line {line} has another number of fields, an open quote, or bytes that are no UTF-8"
            rejected.append(Rejection(f"line-{line}", str(path), "malformed-row", message))
        metadata = _metadata(dataset / "metadata" / metadata_name, options, notes)
        no_chest = _no_chest(dataset / "metadata" / f"no_chest_{split}.txt", notes)
        for name, row in rows.items():
            match = VOLUME_NAME.fullmatch(name)
            if match is None or match[2] != split:
                message = f"{path} line {row.line}: {name!r} is no volume name of this split"
                rejected.append(Rejection(_stem(name), str(path), "bad-id", message))
                continue
            excluded = "listed as not a chest" if name in no_chest else ""
            excluded = "known to be broken" if _stem(name) in KNOWN_BAD else excluded
            candidates.append(_Candidate(row, split, metadata.get(name), excluded))
    if len(notes) >= 2 and not candidates and not rejected:
        raise AnatoBenchError(f"{dataset} has no multi_abnormality_labels: {DOWNLOAD}")
    return candidates, rejected, notes


def _metadata(path: Path, options: ListingOptions, notes: list[str]) -> dict[str, Row]:
    """Rows by volume name; a name that stands twice has none."""
    if not path.is_file() and options.rescale == "hu":
        notes.append(f"{path} is missing: headers are trusted as they are, because rescale is hu")
        return {}
    advice = "without it nobody can tell raw values from HU; " + DOWNLOAD
    return read_table(path, METADATA, advice).by_id("VolumeName")[0]


def _no_chest(path: Path, notes: list[str]) -> frozenset[str]:
    if not path.is_file():
        notes.append(f"{path} is missing: scans of other body parts may be among the cases")
        return frozenset()
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AnatoBenchError(f"{path} is no readable list of names ({error}): {DOWNLOAD}") from None
    return frozenset(name if name.endswith(".nii.gz") else f"{name}.nii.gz" for name in names if name)


def _case(dataset: Path, candidate: _Candidate, splits: dict[str, str], options: ListingOptions) -> Case | Rejection:
    row, split = candidate.row, candidate.split
    name = row["VolumeName"]
    case_id, patient = _stem(name), _patient(name)
    inside = Path(patient) / case_id.rpartition("_")[0] / name
    scan = None
    try:
        scan = _scan(dataset, split, inside, options)
        targets = tuple(_flag(row, label) for label in CT_RATE_LABELS)
        if scan is None:
            raise CaseError("missing-scan", f"{dataset / split / inside} is missing: download it, or leave it out")
        header = header_override(scan, candidate.metadata, options.rescale)
    except CaseError as error:
        return Rejection(case_id, str(scan or inside), error.reason, str(error))
    except OSError as error:  # a name that no file can have, a folder that may not be entered
        return Rejection(case_id, str(inside), "bad-path", f"{str(inside)[:80]}: {error.strerror}")
    mask, mask_labels = None, options.mask_labels
    if options.masks is not None:
        stems = (case_id, str(Path(f"{split}_fixed") / inside.parent / case_id))
        mask = find_mask(options.masks, (*stems, str(Path(split) / inside.parent / case_id)))
    if mask is None:
        official = dataset / "ts_seg" / "ts_total" / f"{split}_fixed" / inside
        mask, mask_labels = (official, "totalsegmentator_v2") if official.is_file() else (None, "auto")
    return Case(case_id, patient, scan, splits[patient], targets, mask, mask_labels, header)


def _scan(dataset: Path, split: str, inside: Path, options: ListingOptions) -> Path | None:
    """Return the `_fixed` file where there is one, else the original; the other way round if raw values are asked
    for."""
    folders = [f"{split}_fixed", split]
    if options.rescale == "raw":
        folders.reverse()
    return next((path for path in (dataset / folder / inside for folder in folders) if path.is_file()), None)


def _flag(row: Row, label: str) -> int:
    text = row[label]
    if text not in ("0", "1", "0.0", "1.0"):
        raise CaseError("bad-label", f"line {row.line}: {label} is {text!r}, neither 0 nor 1")
    return int(float(text))


def _stem(name: str) -> str:
    return name.removesuffix(".nii.gz")


def _patient(name: str) -> str:
    """`train_1`: with the split, because numbers restart in it."""
    return "_".join(name.split("_")[:2])
