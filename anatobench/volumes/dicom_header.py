"""What a folder's files say in DICOM's tags: which of them are the slices of the one CT series, and where they lie.

No tag is trusted: it may be missing, empty, several values or no number, and each of these is one sentence that names
the file and the tag.
"""

from __future__ import annotations

import re
import stat
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitLittleEndian

from anatobench.errors import CaseError
from anatobench.volumes.hounsfield import OVERRIDE
from anatobench.volumes.limits import check_spacing

Value = TypeVar("Value")

PREAMBLE_BYTES = 128
HEAD_BYTES = 4096
MAX_SLICE_PIXELS = 4096 * 4096
MAX_INFLATED_BYTES = 2 * MAX_SLICE_PIXELS + (16 << 20)
"""What a deflated file may unpack to, 48 MiB: the largest slice and as much header as nobody has."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
GREY = ("MONOCHROME1", "MONOCHROME2", "")
UNSPECIFIED = ("", "US")
"""Rescale types that name no unit; the voxels are asked then."""
ALWAYS_SEPARATING = ("AcquisitionNumber", "TemporalPositionIdentifier", "KVP", "ConvolutionKernel")
SEPARATING = (
    *ALWAYS_SEPARATING,
    *("AcquisitionTime", "AcquisitionDateTime", "ContrastBolusAgent", "SliceThickness", "ImageType", "ScanOptions"),
    *("ReconstructionDiameter", "SeriesNumber", "NominalPercentageOfCardiacPhase", "TriggerTime"),
)
"""Slices that differ in one of these and lie between each other are several scans in one series."""
IDENTIFYING = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
"""Slices that differ in one of these are never one scan: another person, or positions in another space."""
_HEADER_TAGS = (
    *("ImageType", "SOPClassUID", "Modality", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit", "InstanceNumber"),
    *(*SEPARATING, *IDENTIFYING),
)
_EXPLICIT = re.compile(rb"[\x02\x08]\x00[\x00-\xff]{2}(AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|OB|PN|SH|ST|TM|UI|UL|UN|US|UT)")


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
    """Patient position (LPS, mm) of the first pixel."""
    position_unit: float
    """Millimetres to which the position was rounded when it was written, as far as its digits show."""
    along_row: np.ndarray
    """Direction (LPS) in which the column index grows."""
    along_column: np.ndarray
    """Direction (LPS) in which the row index grows."""
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


@dataclass(frozen=True)
class SeriesFiles:
    """The slices of a folder, in the order of their names, and what was passed over."""

    slices: list[Slice]
    notes: tuple[str, ...]


def is_dicom_file(path: Path) -> bool:
    """Whether a regular file has DICOM's magic word, or begins with DICOM's first tags as files without preamble do."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        return False
    with path.open("rb") as file:
        return _is_dicom(file.read(HEAD_BYTES))


def _is_dicom(head: bytes) -> bool:
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM" or _EXPLICIT.match(head):
        return True
    if head[:2] not in (b"\x08\x00", b"\x02\x00"):
        return False
    length = int.from_bytes(head[4:8], "little")  # implicit: tag, length, value, next tag
    return length % 2 == 0 and head[8 + length : 10 + length] in (b"\x08\x00", b"\x02\x00", b"\x10\x00")


def series_files(folder: Path, trusted: bool) -> SeriesFiles:
    """The slices of the one CT series in `folder`. What belongs to no CT series is passed over, with a note if it
    claims to be CT; a file of that series that cannot be used is a `CaseError`, because a slice would be missing.

    `trusted`: the stored values are believed to be HU whatever RescaleType says.
    """
    slices: list[Slice] = []
    passed_over: list[tuple[Path, str, str]] = []
    strangers: list[tuple[Path, bytes]] = []
    localizers: list[tuple[Path, FileDataset]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not _is_dicom(head):
            if path.suffix.lower() == ".dcm":
                raise CaseError("truncated", f"{path}: not a DICOM file in spite of its name: copy it again")
            strangers.append((path, head))
            continue
        with warnings.catch_warnings():
            # pydicom warns of every deviation from the standard, also when a value is asked for.
            warnings.simplefilter("ignore")
            dataset = read_dataset(path, pixels=False, deflated=_is_deflated(head))
            why = why_no_slice(path, dataset)
            if why is None:
                slices.append(_slice(path, dataset, trusted, deflated=_is_deflated(head)))
            else:
                if why == LOCALIZER:
                    localizers.append((path, dataset))
                passed_over.append((path, text(path, dataset, "SeriesInstanceUID"), why))
    _check_localizers(slices, localizers)
    if not slices:
        why = f" ({passed_over[0][0].name} {passed_over[0][2]})" if passed_over else ""
        raise CaseError("empty-series", f"{folder}: holds no CT slices in DICOM format{why}")
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
            direction = _numbers(path, dataset, "ImageOrientationPatient", 6)
            size = (whole(path, dataset, "Rows"), whole(path, dataset, "Columns"))
        except CaseError:
            continue
        if (text(path, dataset, "SeriesInstanceUID"), size, tuple(direction[:3]), tuple(direction[3:])) in kinds:
            raise CaseError(
                "damaged-slice", f"{path}: calls itself a localizer, but has the slices' size and direction: remove it"
            )


def _pattern(path: Path) -> str:
    """A name with its numbers taken out: what is named like the slices and is none was one."""
    return re.sub(r"[0-9]+", "#", path.name)


LOCALIZER = "is a localizer"
CAPTURE = "is a captured page, or one in colour"


def why_no_slice(path: Path, dataset: Dataset) -> str | None:
    """Why a DICOM file is no CT slice; None if it is one."""
    modality = text(path, dataset, "Modality")
    if modality not in ("CT", ""):
        return f"its Modality is {modality!r}"
    if "LOCALIZER" in text(path, dataset, "ImageType"):
        return LOCALIZER
    if "Rows" not in dataset:
        return "has no Rows"
    if text(path, dataset, "PhotometricInterpretation") not in GREY or _samples(path, dataset) != 1:
        return CAPTURE
    placed = "ImagePositionPatient" in dataset
    bare = not placed and "ImageOrientationPatient" not in dataset and "PixelSpacing" not in dataset
    if bare or (not placed and _is_capture(path, dataset)):
        return CAPTURE
    return None


def _is_capture(path: Path, dataset: Dataset) -> bool:
    stated = text(path, dataset, "SOPClassUID"), text(path, dataset, "ImageType")
    return stated[0].startswith(SECONDARY_CAPTURE) or "SCREEN" in stated[1]


def _samples(path: Path, dataset: Dataset) -> int:
    return whole(path, dataset, "SamplesPerPixel", 1)


def read_dataset(path: Path, pixels: bool, deflated: bool) -> FileDataset:
    """A file's tags; with `pixels` all of them, with a transfer syntax even where the file names none."""
    try:
        source = _inflated(path) if deflated else path
        if pixels:
            dataset = pydicom.dcmread(source, force=True)
        else:
            dataset = pydicom.dcmread(source, force=True, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        named = str(dataset.file_meta.get("TransferSyntaxUID") or "")
        dataset.file_meta.TransferSyntaxUID = UID(named) if named else _written_as(dataset)
        return dataset
    except CaseError:
        raise
    except Exception as error:  # pydicom raises many types for damaged files
        raise CaseError("truncated", f"{path}: damaged DICOM file ({_told(error)}): copy it again") from error


def _written_as(dataset: FileDataset) -> UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitLittleEndian
    return ExplicitVRLittleEndian if little in (True, None) else ExplicitVRBigEndian


def _is_deflated(head: bytes) -> bool:
    return str(DeflatedExplicitVRLittleEndian).encode() in head[PREAMBLE_BYTES:]


def _inflated(path: Path) -> BytesIO:
    """What a deflated file unpacks to: bounded, which pydicom's own reading is not."""
    with path.open("rb") as file:
        content = file.read(MAX_INFLATED_BYTES)
    length = int.from_bytes(content[PREAMBLE_BYTES + 12 : PREAMBLE_BYTES + 16], "little")
    start = PREAMBLE_BYTES + 16 + length
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(content[start:], MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise CaseError("too-large", f"{path}: unpacks to more than {MAX_INFLATED_BYTES >> 20} MiB: is it damaged?")
    plain = str(ExplicitVRLittleEndian).encode() + b"\0"
    deflated = str(DeflatedExplicitVRLittleEndian).encode()
    before = content[:start].replace(deflated, plain.ljust(len(deflated), b"\0"), 1)
    return BytesIO(before + inflated)


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def text(path: Path, dataset: Dataset, tag: str) -> str:
    """A tag as text, several values with a backslash between them, empty where it is missing."""
    value = _value(path, dataset, tag)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return "\\".join(str(one) for one in value)
    return str(value)


def _value(path: Path, dataset: Dataset, tag: str) -> Any:
    try:
        return dataset.get(tag)
    except Exception as error:  # values are converted when they are asked for
        raise CaseError("bad-header", f"{path}: its {tag} cannot be read ({_told(error)}): copy it again") from None


def _converted(path: Path, dataset: Dataset, tag: str, convert: Callable[[Any], Value], default: Value | None) -> Value:
    value = _value(path, dataset, tag)
    if value is None or value == "":
        if default is None:
            raise CaseError("bad-header", f"{path}: has no {tag}: copy it again")
        return default
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        shown = " ".join(str(value).split())[:60]
        raise CaseError(
            "bad-header", f"{path}: its {tag} is {shown!r}, which is no such value: copy it again"
        ) from None


def whole(path: Path, dataset: Dataset, tag: str, default: int | None = None) -> int:
    """A tag that holds one whole number. `default` is for files without the tag: decoders trip over an empty one."""
    if default is not None and tag not in dataset:
        return default
    if _value(path, dataset, tag) in (None, ""):
        raise CaseError("bad-header", f"{path}: its {tag} is missing or empty: copy it again")
    return _converted(path, dataset, tag, lambda value: int(str(value)), default)


def number(path: Path, dataset: Dataset, tag: str, default: float | None = None) -> float:
    """A tag that holds one finite number."""

    def finite(value: Any) -> float:
        found = float(value)
        if not np.isfinite(found):
            raise ValueError(tag)
        return found

    return _converted(path, dataset, tag, finite, default)


def _numbers(path: Path, dataset: Dataset, tag: str, count: int) -> np.ndarray:
    value = _value(path, dataset, tag)
    try:
        numbers = np.array([float(one) for one in value])
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError(tag)
    except (TypeError, ValueError, OverflowError):
        found = "is missing" if value is None else f"is {' '.join(str(value).split())[:60]!r}"
        raise CaseError("no-geometry", f"{path}: its {tag} {found}, not {count} finite numbers") from None
    return numbers


def _slice(path: Path, dataset: FileDataset, trusted: bool, deflated: bool) -> Slice:
    if whole(path, dataset, "NumberOfFrames", 1) > 1:
        raise CaseError("multi-frame", f"{path}: several slices in one file are not supported: convert it to NIfTI")
    size = (whole(path, dataset, "Rows"), whole(path, dataset, "Columns"))
    if min(size) < 1 or size[0] * size[1] > MAX_SLICE_PIXELS:
        raise CaseError("too-large", f"{path}: claims {size[0]} x {size[1]} pixels: is it damaged?")
    position = _numbers(path, dataset, "ImagePositionPatient", 3)
    orientation = _numbers(path, dataset, "ImageOrientationPatient", 6)
    spacing = _numbers(path, dataset, "PixelSpacing", 2)
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
        captured=_is_capture(path, dataset),
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
    for value in _value(path, dataset, "ImagePositionPatient"):
        written = str(getattr(value, "original_string", value)).strip()
        if "e" in written.lower():
            return 0.0
        decimals = max(decimals, len(written.partition(".")[2].rstrip("0")))
    return 10.0**-decimals


def _rescaling(path: Path, dataset: FileDataset, signed: bool) -> tuple[float, float]:
    slope, intercept = (_value(path, dataset, tag) for tag in ("RescaleSlope", "RescaleIntercept"))
    if slope in (None, "") and intercept in (None, "") and not signed:
        raise CaseError("no-rescale", f"{path}: unsigned pixels without RescaleIntercept are not HU: add the tag")
    numbers = number(path, dataset, "RescaleSlope", 1.0), number(path, dataset, "RescaleIntercept", 0.0)
    if numbers[0] == 0:
        raise CaseError("bad-rescale", f"{path}: its RescaleSlope is 0")
    return numbers


def _rescale_type(path: Path, dataset: FileDataset) -> str:
    """Empty for HU and where nothing is said."""
    stated = text(path, dataset, "RescaleType").strip().upper()
    if stated in ("HU", *UNSPECIFIED):
        return "" if stated == "HU" else stated
    raise CaseError("not-hounsfield", f"{path}: its RescaleType is {stated[:40]}, not HU: {OVERRIDE}")


def _padding(path: Path, dataset: FileDataset, bits: int, signed: bool) -> tuple[int, int] | None:
    if _value(path, dataset, "PixelPaddingValue") in (None, ""):
        return None
    try:
        one = whole(path, dataset, "PixelPaddingValue")
        other = whole(path, dataset, "PixelPaddingRangeLimit", one)
    except CaseError:
        return None  # what pads is judged by the voxels then
    first, last = (_as_stored(value, bits, signed) for value in (one, other))
    return min(first, last), max(first, last)


def _as_stored(value: int, bits: int, signed: bool) -> int:
    """The tag's own sign may be another than the pixels'."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value
