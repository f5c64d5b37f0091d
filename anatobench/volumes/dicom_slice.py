"""One slice as its header describes it: its place in the patient, and how its stored words become HU."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from anatobench.errors import CaseError
from anatobench.volumes.dicom_tags import (
    IDENTIFYING,
    MAX_SLICE_PIXELS,
    SEPARATING,
    number,
    numbers,
    text,
    value_of,
    whole,
)
from anatobench.volumes.hounsfield import OVERRIDE
from anatobench.volumes.limits import check_spacing

CONVERT = "convert it to NIfTI, or to one file per slice"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UNSPECIFIED = ("", "US")
"""Rescale types that name no unit; the voxels are asked then."""


@dataclass(frozen=True)
class Slice:
    """What a slice's header says."""

    path: Path
    series: str
    size: tuple[int, int]
    """Rows, columns."""
    pixel_spacing: tuple[float, float]
    """Millimetres between rows, between columns."""
    position: np.ndarray
    """Patient position (LPS, mm) of the first pixel, [3]."""
    position_unit: float
    """Millimetres to which the position was rounded when it was written, as far as its digits show."""
    along_row: np.ndarray
    """Direction (LPS) in which the column index grows, of length 1, [3]."""
    along_column: np.ndarray
    """Direction (LPS) in which the row index grows, of length 1, [3]."""
    slope: float
    intercept: float
    inversion: int | None
    """MONOCHROME1: smallest plus largest storable pixel value; None for MONOCHROME2."""
    bits: int
    """BitsStored."""
    signed: bool
    padding: tuple[int, int] | None
    """Smallest and largest stored value that stand for no measurement."""
    labels: dict[str, str] = field(default_factory=dict)
    """By tag of `SEPARATING` and `IDENTIFYING`."""
    number: float | None = None
    """InstanceNumber, where it is a number."""
    deflated: bool = False
    captured: bool = False
    """Says that it is a picture of a screen, though it has a place."""


def is_capture(path: Path, dataset: Dataset) -> bool:
    """Return whether the header says that it is a picture of a screen."""
    stated = text(path, dataset, "SOPClassUID"), text(path, dataset, "ImageType")
    return stated[0].startswith(SECONDARY_CAPTURE) or "SCREEN" in stated[1]


def slice_of(path: Path, dataset: FileDataset, trusted: bool, deflated: bool) -> Slice:
    """Return what a slice's tags say. Raises `CaseError` for tags that are missing or cannot be."""
    if whole(path, dataset, "NumberOfFrames", 1) > 1:
        raise CaseError("multi-frame", f"{path}: several slices in one file are not supported: {CONVERT}")
    size = (whole(path, dataset, "Rows"), whole(path, dataset, "Columns"))
    if min(size) < 1 or size[0] * size[1] > MAX_SLICE_PIXELS:
        raise CaseError("too-large", f"{path}: claims {size[0]} x {size[1]} pixels: is it damaged?")
    position = numbers(path, dataset, "ImagePositionPatient", 3)
    orientation = numbers(path, dataset, "ImageOrientationPatient", 6)
    spacing = numbers(path, dataset, "PixelSpacing", 2)
    check_spacing(path, spacing)
    along_row, along_column = orientation[:3], orientation[3:]
    unit = np.allclose([np.linalg.norm(along_row), np.linalg.norm(along_column)], 1, atol=1e-2)
    if not unit or abs(along_row @ along_column) > 1e-2:
        raise CaseError("bad-affine", f"{path}: its ImageOrientationPatient is not two perpendicular unit vectors")
    signed = whole(path, dataset, "PixelRepresentation", 0) == 1
    bits = whole(path, dataset, "BitsStored", 16)
    if not 1 <= bits <= 32:
        raise CaseError("bad-header", f"{path}: its BitsStored is {bits}: copy it again")
    slope, intercept = _rescaling(path, dataset, signed)
    monochrome1 = text(path, dataset, "PhotometricInterpretation") == "MONOCHROME1"
    inversion = (-1 if signed else 2**bits - 1) if monochrome1 else None
    labels = {tag: text(path, dataset, tag) for tag in (*SEPARATING, *IDENTIFYING)}
    labels["RescaleType"] = "" if trusted else _rescale_type(path, dataset)
    return Slice(
        path=path,
        series=text(path, dataset, "SeriesInstanceUID"),
        size=size,
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        position=position,
        position_unit=_unit(path, dataset),
        along_row=along_row,
        along_column=along_column,
        slope=slope,
        intercept=intercept,
        inversion=inversion,
        bits=bits,
        signed=signed,
        padding=_padding(path, dataset, bits, signed),
        labels=labels,
        deflated=deflated,
        captured=is_capture(path, dataset),
        number=_instance_number(path, dataset),
    )


def _instance_number(path: Path, dataset: FileDataset) -> float | None:
    try:
        return number(path, dataset, "InstanceNumber")
    except CaseError:
        return None


def _unit(path: Path, dataset: FileDataset) -> float:
    """1, 0.1, 0.01, ... by the most decimals that one of the three coordinates has."""
    decimals = 0
    for value in value_of(path, dataset, "ImagePositionPatient"):
        written = str(getattr(value, "original_string", value)).strip()
        if "e" in written.lower():
            return 0.0
        decimals = max(decimals, len(written.partition(".")[2].rstrip("0")))
    return 10.0**-decimals


def _rescaling(path: Path, dataset: FileDataset, signed: bool) -> tuple[float, float]:
    stated = [value_of(path, dataset, tag) for tag in ("RescaleSlope", "RescaleIntercept")]
    if all(value in (None, "") for value in stated) and not signed:
        raise CaseError("no-rescale", f"{path}: unsigned pixels without RescaleIntercept are not HU: add the tag")
    slope, intercept = number(path, dataset, "RescaleSlope", 1.0), number(path, dataset, "RescaleIntercept", 0.0)
    if slope == 0:
        raise CaseError("bad-rescale", f"{path}: its RescaleSlope is 0")
    return slope, intercept


def _rescale_type(path: Path, dataset: FileDataset) -> str:
    """Empty for HU and where nothing is said."""
    stated = text(path, dataset, "RescaleType").strip().upper()
    if stated in ("HU", *UNSPECIFIED):
        return "" if stated == "HU" else stated
    raise CaseError("not-hounsfield", f"{path}: its RescaleType is {stated[:40]}, not HU: {OVERRIDE}")


def _padding(path: Path, dataset: FileDataset, bits: int, signed: bool) -> tuple[int, int] | None:
    if value_of(path, dataset, "PixelPaddingValue") in (None, ""):
        return None
    try:
        one = whole(path, dataset, "PixelPaddingValue")
        other = whole(path, dataset, "PixelPaddingRangeLimit", one)
    except CaseError:
        return None  # what pads is judged by the voxels then
    first, last = (_as_stored(value, bits, signed) for value in (one, other))
    return min(first, last), max(first, last)


def _as_stored(value: int, bits: int, signed: bool) -> int:
    """Return a tag's value as the pixels store it, whose sign may be another than the tag's."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value
