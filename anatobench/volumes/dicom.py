"""A DICOM series of CT slices, as RATIC has them: one file per slice in one folder.

Slices are placed by their positions in the patient, never by file name or instance number, which may start anywhere and
run either way. Rescaling is read per slice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.pixels import get_decoder

from anatobench.errors import CaseError
from anatobench.volumes.limits import check_affine, check_size, check_spacing
from anatobench.volumes.orientation import to_canonical
from anatobench.volumes.volume import Volume

PREAMBLE_BYTES = 128
MAX_SLICE_PIXELS = 4096 * 4096
SAME_POSITION_MM = 1e-2
UNEVEN_SHARE = 0.2
"""Share of the slice distance by which a gap may differ from the others."""
DIRECTION_TOLERANCE = 1e-3
AIR_THRESHOLD_HU = -900
AIR_SHARE = 0.01
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient axes grow to the left and backwards, NIfTI's to the right and forwards."""
_INT16 = np.iinfo(np.int16)
_HEADER_TAGS = (
    *("ImageType", "Modality", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PhotometricInterpretation", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
)


@dataclass(frozen=True)
class _Slice:
    """What a slice's header says."""

    path: Path
    series: str
    size: tuple[int, int]
    """Rows, columns."""
    pixel_spacing: tuple[float, float]
    """Millimetres between rows, between columns."""
    position: np.ndarray
    """Patient position (LPS, mm) of the first pixel."""
    along_row: np.ndarray
    """Direction (LPS) in which the column index grows."""
    along_column: np.ndarray
    """Direction (LPS) in which the row index grows."""
    slope: float
    intercept: float
    inversion: int | None
    """MONOCHROME1: smallest plus largest storable pixel value; None for MONOCHROME2."""


def is_dicom_file(path: Path) -> bool:
    """Whether the file has DICOM's preamble and magic word."""
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] == b"DICM"


def read_dicom_series(folder: Path) -> Volume:
    """Read the one CT series in `folder` (its own files alone; what is not DICOM or not a CT slice is passed over).

    The slice distance is the median distance of neighbouring positions; SliceThickness is not used. Raises `CaseError`
    for no or several series, missing, duplicate or unequal slices, and undecodable pixels.
    """
    slices = _slice_headers(folder)
    _check_same(folder, slices)
    size = (len(slices), *slices[0].size)
    check_size(folder, size)
    slices, affine = _stack(folder, slices)
    check_affine(folder, affine)
    inverted = _stored_inverted(slices[len(slices) // 2])
    hounsfield = np.empty(size, dtype=np.int16)
    for one, target in zip(slices, hounsfield, strict=True):
        target[:] = _slice_hounsfield(one, inverted)
    return Volume(*to_canonical(hounsfield, affine))


def _slice_headers(folder: Path) -> list[_Slice]:
    slices = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        if not is_dicom_file(path):
            if path.suffix.lower() == ".dcm":
                raise CaseError("truncated", f"{path}: not a DICOM file in spite of its name: copy it again")
            continue
        dataset = _read_dataset(path, pixels=False)
        if _is_ct_slice(dataset):
            slices.append(_slice_header(path, dataset))
    if not slices:
        raise CaseError("empty-series", f"{folder}: holds no CT slices in DICOM format")
    return slices


def _read_dataset(path: Path, pixels: bool) -> FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every deviation from the standard in tags that are not used
        try:
            if pixels:
                return pydicom.dcmread(path)
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
        except Exception as error:  # pydicom raises many types for damaged files
            raise CaseError("truncated", f"{path}: damaged DICOM file ({error}): copy it again") from error


def _is_ct_slice(dataset: FileDataset) -> bool:
    if "Rows" not in dataset or dataset.get("Modality", "CT") not in ("CT", "", None):
        return False
    return "LOCALIZER" not in (dataset.get("ImageType") or ())


def _slice_header(path: Path, dataset: FileDataset) -> _Slice:
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise CaseError("multi-frame", f"{path}: several slices in one file are not supported: convert it to NIfTI")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise CaseError("unsupported-pixels", f"{path}: a colour image is no CT slice")
    size = (int(dataset.Rows), int(dataset.get("Columns") or 0))
    if not 0 < size[0] * size[1] <= MAX_SLICE_PIXELS:
        raise CaseError("too-large", f"{path}: claims {size[0]} x {size[1]} pixels: is it damaged?")
    try:
        position = _numbers(dataset.ImagePositionPatient, 3)
        orientation = _numbers(dataset.ImageOrientationPatient, 6)
        spacing = _numbers(dataset.PixelSpacing, 2)
        signed = bool(dataset.get("PixelRepresentation", 0))
        slope, intercept = _rescaling(path, dataset, signed)
    except (AttributeError, TypeError, ValueError) as error:
        raise CaseError("no-geometry", f"{path}: no valid position, orientation or spacing ({error})") from error
    check_spacing(path, spacing)
    along_row, along_column = orientation[:3], orientation[3:]
    unit = np.allclose([np.linalg.norm(along_row), np.linalg.norm(along_column)], 1, atol=1e-2)
    if not unit or abs(along_row @ along_column) > 1e-2:
        raise CaseError("bad-affine", f"{path}: its ImageOrientationPatient is not two perpendicular unit vectors")
    inversion = None
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        inversion = -1 if signed else 2 ** int(dataset.get("BitsStored", 16)) - 1
    return _Slice(
        path=path,
        series=str(dataset.get("SeriesInstanceUID", "")),
        size=size,
        pixel_spacing=(float(spacing[0]), float(spacing[1])),
        position=position,
        along_row=along_row,
        along_column=along_column,
        slope=slope,
        intercept=intercept,
        inversion=inversion,
    )


def _rescaling(path: Path, dataset: FileDataset, signed: bool) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None and intercept is None and not signed:
        raise CaseError("no-rescale", f"{path}: unsigned pixels without RescaleIntercept are not HU: add the tag")
    numbers = _numbers([1.0 if slope is None else slope, 0.0 if intercept is None else intercept], 2)
    if numbers[0] == 0:
        raise CaseError("bad-rescale", f"{path}: its RescaleSlope is 0")
    return float(numbers[0]), float(numbers[1])


def _numbers(values: Sequence[object], count: int) -> np.ndarray:
    numbers = np.array([float(value) for value in values])  # type: ignore[arg-type]
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{count} finite numbers needed, found {list(values)}")
    return numbers


def _check_same(folder: Path, slices: list[_Slice]) -> None:
    """Raise `CaseError` unless the slices are one series of one size and direction."""
    series = {one.series for one in slices}
    if len(series) > 1:
        raise CaseError("several-series", f"{folder}: holds {len(series)} DICOM series: give each its own folder")
    first = slices[0]
    for other in slices[1:]:
        same = (
            other.size == first.size
            and np.allclose(other.pixel_spacing, first.pixel_spacing, rtol=DIRECTION_TOLERANCE, atol=0)
            and np.allclose(other.along_row, first.along_row, atol=DIRECTION_TOLERANCE)
            and np.allclose(other.along_column, first.along_column, atol=DIRECTION_TOLERANCE)
        )
        if not same:
            raise CaseError(
                "inconsistent-slices",
                f"{folder}: {first.path.name} and {other.path.name} differ in size, pixel spacing or direction",
            )


def _stack(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], np.ndarray]:
    """The slices in the order of their positions, and the affine of (slice, row, column) to RAS+ millimetres."""
    first = slices[0]
    normal = np.cross(first.along_row, first.along_column)
    slices = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in slices])
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    step = np.median(steps, axis=0)  # not along the normal if the gantry is tilted
    distance = float(np.median(gaps))
    if (gaps < SAME_POSITION_MM).any():
        at = int(np.argmin(gaps))
        names = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        raise CaseError("duplicate-slices", f"{folder}: {names} lie at the same position: keep one of them")
    tolerance = max(UNEVEN_SHARE * distance, SAME_POSITION_MM)
    if gaps.max() > distance + tolerance:
        at = int(np.argmax(gaps))
        names = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        raise CaseError(
            "missing-slices", f"{folder}: {gaps[at]:g} mm between {names} where others are {distance:g} mm apart"
        )
    drift = np.abs(positions - positions[0] - np.arange(len(slices))[:, None] * step).max()
    if gaps.min() < distance - tolerance or drift > max(distance / 2, *first.pixel_spacing):
        raise CaseError("uneven-slices", f"{folder}: its slices do not lie at even distances on one line")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.along_column * first.pixel_spacing[0]
    affine[:3, 2] = first.along_row * first.pixel_spacing[1]
    affine[:3, 3] = slices[0].position
    return slices, LPS_TO_RAS @ affine


def _stored_inverted(one: _Slice) -> bool:
    """Whether a MONOCHROME1 series stores inverted values, so that air is the largest.

    By the standard the word only concerns display, but some exporters invert, and RATIC's published readers undo it.
    Every CT shows air, so the values are inverted unless only the plain reading has any.
    """
    if one.inversion is None:
        return False
    plain, inverted = (_slice_hounsfield(one, inverted) for inverted in (False, True))
    return not (_shows_air(plain) and not _shows_air(inverted))


def _shows_air(hounsfield: np.ndarray) -> bool:
    return bool(np.mean(hounsfield <= AIR_THRESHOLD_HU) >= AIR_SHARE)


def _slice_hounsfield(one: _Slice, inverted: bool) -> np.ndarray:
    """One slice's pixels as int16 HU [rows, columns]; values beyond int16 saturate."""
    stored = _stored_pixels(one)
    values = stored.astype(np.float32)
    if inverted and one.inversion is not None:
        values = one.inversion - values
    values *= np.float32(one.slope)
    values += np.float32(one.intercept)
    np.rint(values, out=values)
    return np.clip(values, _INT16.min, _INT16.max).astype(np.int16)


def _stored_pixels(one: _Slice) -> np.ndarray:
    """The stored values. pydicom clears or sign-extends the bits above BitsStored, which some scanners leave dirty."""
    dataset = _read_dataset(one.path, pixels=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise CaseError("unsupported-pixels", f"{one.path}: no decoder for {syntax.name}: decompress the series first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = dataset.pixel_array
        except Exception as error:  # the decoders raise many types for damaged pixel data
            raise CaseError("truncated", f"{one.path}: its pixel data is damaged ({error}): copy it again") from error
    if pixels.shape != one.size:
        raise CaseError("truncated", f"{one.path}: its pixels are {pixels.shape}, its header says {one.size}")
    return pixels
