"""Which of a folder's files are the slices of the one CT series, and what is passed over."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset

from anatobench.errors import CaseError
from anatobench.volumes.dicom_slice import CONVERT, Slice, is_capture, slice_of
from anatobench.volumes.dicom_tags import (
    HEAD_BYTES,
    is_deflated,
    looks_like_dicom,
    numbers,
    read_dataset,
    text,
    value_of,
    whole,
)

GREY = ("MONOCHROME1", "MONOCHROME2", "")


@dataclass(frozen=True)
class SeriesFiles:
    """The slices of a folder, in the order of their names, and what was passed over."""

    slices: list[Slice]
    notes: tuple[str, ...]


def series_files(folder: Path, trusted: bool) -> SeriesFiles:
    """Return the slices of the one CT series in `folder`. What belongs to no CT series is passed over, with a note if
    it claims to be CT; a file of that series that cannot be used is a `CaseError`, because a slice would be missing.

    `trusted`: the stored values are believed to be HU whatever RescaleType says.
    """
    slices: list[Slice] = []
    passed_over: list[tuple[Path, str, str]] = []
    strangers: list[tuple[Path, bytes]] = []
    localizers: list[tuple[Path, FileDataset]] = []
    unplaced: list[tuple[Path, FileDataset]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not looks_like_dicom(head):
            if path.suffix.lower() == ".dcm":
                raise CaseError("truncated", f"{path}: not a DICOM file in spite of its name: copy it again")
            strangers.append((path, head))
            continue
        with warnings.catch_warnings():
            # pydicom warns of every deviation from the standard, also when a value is asked for.
            warnings.simplefilter("ignore")
            dataset = read_dataset(path, pixels=False, deflated=is_deflated(head))
            why = why_no_slice(path, dataset)
            if why is None and not _is_placed(path, dataset):
                unplaced.append((path, dataset))
            elif why is None:
                slices.append(slice_of(path, dataset, trusted, deflated=is_deflated(head)))
            else:
                if why == LOCALIZER:
                    localizers.append((path, dataset))
                passed_over.append((path, text(path, dataset, "SeriesInstanceUID"), why))
    _check_localizers(slices, localizers)
    known = {one.series for one in slices}
    for path, dataset in unplaced:
        uid = text(path, dataset, "SeriesInstanceUID")
        if not slices or not uid or uid in known:
            slice_of(path, dataset, trusted, deflated=False)  # raises: it is a slice, and nobody knows where
        passed_over.append((path, uid, CAPTURE))
    if not slices:
        why = f" ({passed_over[0][0].name} {passed_over[0][2]})" if passed_over else ""
        below = any(path.is_dir() for path in folder.iterdir())
        advice = ": its own files alone are read: give the folder in which the slices themselves lie" if below else ""
        raise CaseError("empty-series", f"{folder}: holds no CT slices in DICOM format{why}{advice}")
    captured = [one for one in slices if one.captured]
    if len(captured) < len(slices):  # a scan may have been saved as captured pages, but not beside another one
        passed_over += [(one.path, one.series, CAPTURE) for one in captured]
        slices = [one for one in slices if not one.captured]
    series = Counter(one.series for one in slices).most_common(1)[0][0]
    alike = {_pattern(one.path) for one in slices}
    for path, uid, why in passed_over:
        torn = not uid and _pattern(path) in alike
        if torn or (series and uid == series and why != LOCALIZER):
            raise CaseError("damaged-slice", f"{path}: {why}, but it belongs to the series: copy it again")
    for path, head in strangers:
        if (len(series) > 8 and series.encode() in head) or _pattern(path) in alike:
            raise CaseError(
                "damaged-slice", f"{path}: belongs to the series, but is no whole DICOM file: copy it again"
            )
    captures = [path.name for path, _, why in passed_over if why == CAPTURE]
    notes = []
    if captures:
        notes.append(f"passed over {len(captures)} captured page(s) without a place, for example {captures[0]}")
    others = [(path.name, why) for path, _, why in passed_over if why not in (CAPTURE, LOCALIZER)]
    if others:
        notes.append(
            f"passed over {len(others)} file(s) that are no CT slices, for example {others[0][0]} ({others[0][1]})"
        )
    types = {one.labels["RescaleType"] for one in slices if one.labels["RescaleType"]}
    if types:
        notes.append(f"RescaleType is {', '.join(sorted(types))}: taken for HU, as the voxels look like it")
    return SeriesFiles(slices, tuple(notes))


def _check_localizers(slices: list[Slice], localizers: list[tuple[Path, FileDataset]]) -> None:
    """Raise `CaseError` for a localizer of the series that has the slices' own size and direction: it is one of them,
    and its ImageType is damaged."""
    kinds = {(one.series, one.size, tuple(one.along_row), tuple(one.along_column)) for one in slices}
    for path, dataset in localizers:
        try:
            direction = numbers(path, dataset, "ImageOrientationPatient", 6)
            size = (whole(path, dataset, "Rows"), whole(path, dataset, "Columns"))
        except CaseError:
            continue
        if (text(path, dataset, "SeriesInstanceUID"), size, tuple(direction[:3]), tuple(direction[3:])) in kinds:
            raise CaseError(
                "damaged-slice", f"{path}: calls itself a localizer, but has the slices' size and direction: remove it"
            )


def _pattern(path: Path) -> str:
    """Return a name with its numbers taken out: what is named like the slices and is none was one."""
    return re.sub(r"[0-9]+", "#", path.name)


ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""Enhanced CT and what was converted to it; their slices' places stand in nested sequences."""
LOCALIZER = "is a localizer"
CAPTURE = "is a captured page, or one in colour"


def why_no_slice(path: Path, dataset: Dataset) -> str | None:
    """Return why a DICOM file is no CT slice; None if it is one."""
    modality = text(path, dataset, "Modality")
    if modality not in ("CT", ""):
        return f"its Modality is {modality!r}"
    if "LOCALIZER" in text(path, dataset, "ImageType"):
        return LOCALIZER
    if "Rows" not in dataset:
        return "has no Rows"
    if text(path, dataset, "PhotometricInterpretation") not in GREY or _samples(path, dataset) != 1:
        return CAPTURE
    if text(path, dataset, "SOPClassUID") in ENHANCED:
        raise CaseError("multi-frame", f"{path}: an enhanced CT, all slices in one file, is not supported: {CONVERT}")
    placed = _is_placed(path, dataset)
    bare = not placed and "ImageOrientationPatient" not in dataset and "PixelSpacing" not in dataset
    if bare or (not placed and is_capture(path, dataset)):
        return CAPTURE
    return None


def _is_placed(path: Path, dataset: Dataset) -> bool:
    return value_of(path, dataset, "ImagePositionPatient") not in (None, "", [])


def _samples(path: Path, dataset: Dataset) -> int:
    return whole(path, dataset, "SamplesPerPixel", 1)
