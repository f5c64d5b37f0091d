"""A DICOM file's tags, of which none is trusted: a tag may be missing, empty, several values or no number, and each of
these is one sentence that names the file and the tag.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitLittleEndian

from anatobench.errors import CaseError

Value = TypeVar("Value")

PREAMBLE_BYTES = 128
HEAD_BYTES = 4096
MAX_SLICE_PIXELS = 4096 * 4096
MAX_INFLATED_BYTES = 2 * MAX_SLICE_PIXELS + (16 << 20)
"""What a deflated file may unpack to, 48 MiB: the largest slice and as much header as nobody has."""
ALWAYS_SEPARATING = ("AcquisitionNumber", "TemporalPositionIdentifier", "KVP", "ConvolutionKernel")
SEPARATING = (
    *ALWAYS_SEPARATING,
    *("AcquisitionTime", "AcquisitionDateTime", "ContrastBolusAgent", "SliceThickness", "ImageType", "ScanOptions"),
    *("ReconstructionDiameter", "SeriesNumber", "NominalPercentageOfCardiacPhase", "TriggerTime"),
    *("AcquisitionDate", "SeriesTime", "StudyDate", "SeriesDescription", "ProtocolName", "FilterType", "PatientName"),
    *("PatientPosition", "AccessionNumber", "StudyID", "GantryDetectorTilt", "ContrastBolusVolume"),
)
"""Slices that differ in one of these and lie between each other are several scans in one series."""
NEVER_CHANGING = ("KVP", "ConvolutionKernel", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase")
"""One reconstruction has one value of each: two parts that differ are two scans even if one follows the other."""
CONTRAST = "ContrastBolusAgent"
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


def is_dicom_file(path: Path) -> bool:
    """Return whether a regular file has DICOM's magic word, or begins with DICOM's first tags as files without preamble
    do."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        return False
    with path.open("rb") as file:
        return looks_like_dicom(file.read(HEAD_BYTES))


def looks_like_dicom(head: bytes) -> bool:
    """`is_dicom_file` of the file's first `HEAD_BYTES`."""
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM" or _EXPLICIT.match(head):
        return True
    if head[:2] not in (b"\x08\x00", b"\x02\x00"):
        return False
    length = int.from_bytes(head[4:8], "little")  # implicit: tag, length, value, next tag
    return length % 2 == 0 and head[8 + length : 10 + length] in (b"\x08\x00", b"\x02\x00", b"\x10\x00")


def is_deflated(head: bytes) -> bool:
    """Return whether the file's first bytes name the deflated transfer syntax."""
    return str(DeflatedExplicitVRLittleEndian).encode() in head[PREAMBLE_BYTES:]


def read_dataset(path: Path, pixels: bool, deflated: bool) -> FileDataset:
    """Return a file's tags; with `pixels` all of them, with a transfer syntax even where the file names none."""
    try:
        source = _inflated(path) if deflated else path
        if pixels:
            dataset = pydicom.dcmread(source, force=True)
        else:
            dataset = pydicom.dcmread(source, force=True, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        stated = dataset.file_meta.get("TransferSyntaxUID")
        named = str(stated or "").strip(" \0")
        if isinstance(stated, MultiValue) or "\\" in named:
            raise CaseError("bad-header", f"{path}: its TransferSyntaxUID is {named[:60]!r}: copy it again")
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


def _inflated(path: Path) -> BytesIO:
    """Return what a deflated file unpacks to: bounded, which pydicom's own reading is not."""
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
    """Return a tag as text, several values with a backslash between them, empty where it is missing."""
    value = value_of(path, dataset, tag)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return "\\".join(str(one) for one in value)
    return str(value)


def value_of(path: Path, dataset: Dataset, tag: str) -> Any:
    """Return a tag as pydicom gives it, None where it is missing."""
    try:
        return dataset.get(tag)
    except Exception as error:  # values are converted when they are asked for
        raise CaseError("bad-header", f"{path}: its {tag} cannot be read ({_told(error)}): copy it again") from None


def _converted(path: Path, dataset: Dataset, tag: str, convert: Callable[[Any], Value], default: Value | None) -> Value:
    value = value_of(path, dataset, tag)
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
    """Return a tag that holds one whole number. `default` is for files without the tag: decoders trip over an empty
    one."""
    if default is not None and tag not in dataset:
        return default
    if value_of(path, dataset, tag) in (None, ""):
        raise CaseError("bad-header", f"{path}: its {tag} is missing or empty: copy it again")
    return _converted(path, dataset, tag, lambda value: int(str(value)), default)


def number(path: Path, dataset: Dataset, tag: str, default: float | None = None) -> float:
    """Return a tag that holds one finite number."""

    def finite(value: Any) -> float:
        found = float(value)
        if not np.isfinite(found):
            raise ValueError(tag)
        return found

    return _converted(path, dataset, tag, finite, default)


def numbers(path: Path, dataset: Dataset, tag: str, count: int) -> np.ndarray:
    """Return a tag that holds `count` finite numbers, as float64 [count]."""
    value = value_of(path, dataset, tag)
    try:
        found = np.array([float(one) for one in value])
        if len(found) != count or not np.isfinite(found).all():
            raise ValueError(tag)
    except (TypeError, ValueError, OverflowError):
        shown = "is missing" if value is None else f"is {' '.join(str(value).split())[:60]!r}"
        raise CaseError("no-geometry", f"{path}: its {tag} {shown}, not {count} finite numbers") from None
    return found
