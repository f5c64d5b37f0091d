"""Does a CT-RATE file hold raw stored values or HU? Rescaling HU a second time turns every scan into air.

Original files have a blank header (identity affine) and need slope, intercept, spacing and place from the metadata CSV.
`_fixed` files are in HU and their spacing is the metadata's. Anything else is ambiguous.
"""

from __future__ import annotations

import ast
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from anatobench.datasets.table import Row
from anatobench.errors import CaseError
from anatobench.volumes.volume import HeaderOverride

HEADER_BYTES: dict[int, type[nibabel.Nifti1Header]] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
TOLERANCE_MM = 0.01
MAX_LITERAL = 400
"""Characters of a list in the metadata; longer ones are no three or six numbers."""


@dataclass(frozen=True)
class _Geometry:
    """What the metadata say of a file."""

    spacing: np.ndarray
    """[3] mm along i, j, k."""
    slope: float
    intercept: float


def header_override(path: Path, metadata: Row | None, rescale: str) -> HeaderOverride | None:
    """Return what must replace the header of a raw file; None for a file in HU.

    Raises CaseError `ambiguous-rescale`, `rescale-contradicts-header`, `missing-metadata`, `bad-metadata` or
    `bad-header`.
    """
    affine = read_affine(path)
    if metadata is None:
        if rescale != "hu":
            raise CaseError("missing-metadata", f"{path}: no row in the metadata CSV; state --rescale hu if it is HU")
        if is_blank(affine):
            raise CaseError("rescale-contradicts-header", f"{path}: a blank header is that of raw values, not of HU")
        return None
    geometry = _geometry(path, metadata)
    found = classify(affine, geometry.spacing)
    if rescale == "auto" and found == "ambiguous":
        spacing = np.round(np.linalg.norm(affine[:3, :3], axis=0), 3).tolist()
        raise CaseError(
            "ambiguous-rescale",
            f"{path}: header spacing {spacing} and metadata spacing {geometry.spacing.tolist()} do not tell whether "
            "these are raw values or HU: state --rescale raw or --rescale hu",
        )
    if rescale != "auto" and found not in (rescale, "ambiguous"):
        raise CaseError(
            "rescale-contradicts-header", f"{path}: --rescale {rescale}, but the header is that of {found} values"
        )
    if (found if rescale == "auto" else rescale) == "hu":
        return None
    return HeaderOverride(geometry.slope, geometry.intercept, _affine(path, metadata, geometry.spacing))


def classify(affine: np.ndarray, metadata_spacing: np.ndarray) -> str:
    """`raw`, `hu` or `ambiguous` from a header's affine [4, 4], (i, j, k) to mm, and the spacing [3] that the metadata
    name, mm along i, j, k."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    matches = bool(np.allclose(spacing, metadata_spacing, rtol=0.005, atol=TOLERANCE_MM))
    blank = is_blank(affine)
    if blank and not matches:
        return "raw"
    if matches and not blank:
        return "hu"
    return "ambiguous"


def is_blank(affine: np.ndarray) -> bool:
    """Return whether a header's affine [4, 4] in mm says nothing: unit spacing along positive axes, and no origin."""
    signless = np.abs(affine[:3, :3])
    return bool(np.allclose(signless, np.eye(3), atol=1e-4) and np.allclose(affine[:3, 3], 0, atol=1e-3))


def read_affine(path: Path) -> np.ndarray:
    """Return the affine in a NIfTI header, float64 [4, 4], reading no more of the file than the header."""
    try:
        with gzip.open(path) as file:
            block = file.read(max(HEADER_BYTES))
        for size, header_class in HEADER_BYTES.items():
            for order, endianness in (("little", "<"), ("big", ">")):
                if int.from_bytes(block[:4], order) == size and len(block) >= size:  # type: ignore[arg-type]
                    header = header_class(block[:size], endianness=endianness, check=False)
                    # without transforms a header still places the middle of the array at zero: that is blank too
                    placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
                    affine = header.get_best_affine() if placed else np.diag([*header["pixdim"][1:4], 1.0])
                    return _finite(path, np.asarray(affine, dtype=np.float64))
    except (OSError, EOFError, zlib.error, HeaderDataError, ValueError) as error:
        raise CaseError("bad-header", f"{path}: no readable header ({error}): download it again") from error
    raise CaseError("bad-header", f"{path}: this is no NIfTI file: download it again")


def _finite(path: Path, affine: np.ndarray) -> np.ndarray:
    if not np.isfinite(affine).all():
        raise CaseError("bad-header", f"{path}: the header's affine is not finite")
    return affine


def _geometry(path: Path, metadata: Row) -> _Geometry:
    in_plane = _numbers(path, metadata, "XYSpacing", 2)
    between = _number(path, metadata, "ZSpacing")
    spacing = np.array([*in_plane, between])
    if not (spacing > 0).all() or not (spacing < 100).all():
        raise CaseError("bad-metadata", f"{path}: spacing {spacing.tolist()} mm in the metadata is no spacing")
    slope, intercept = _number(path, metadata, "RescaleSlope"), _number(path, metadata, "RescaleIntercept")
    if slope == 0:
        raise CaseError("bad-metadata", f"{path}: RescaleSlope is 0")
    return _Geometry(spacing, slope, intercept)


def _affine(path: Path, metadata: Row, spacing: np.ndarray) -> np.ndarray:
    """i runs along a row of the image, j down its columns, k along their cross product; LPS in the CSV, RAS here."""
    for column in ("ImagePositionPatient", "ImageOrientationPatient"):
        if not metadata.get(column):
            raise CaseError("missing-metadata", f"{path}: the metadata name no {column}")
    orientation = _numbers(path, metadata, "ImageOrientationPatient", 6)
    row, column_axis = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column_axis)])
    if not np.allclose(lengths, 1, atol=1e-2) or abs(row @ column_axis) > 1e-2:
        raise CaseError("bad-metadata", f"{path}: ImageOrientationPatient {orientation.tolist()} is no rotation")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column_axis, np.cross(row, column_axis)], axis=1) * spacing
    affine[:3, 3] = _numbers(path, metadata, "ImagePositionPatient", 3)
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _number(path: Path, metadata: Row, column: str) -> float:
    try:
        value = float(metadata[column])
    except ValueError:
        raise CaseError("bad-metadata", f"{path}: {column} is {metadata[column][:40]!r}, no number") from None
    if not np.isfinite(value):
        raise CaseError("bad-metadata", f"{path}: {column} is {value}")
    return value


def _numbers(path: Path, metadata: Row, column: str, count: int) -> np.ndarray:
    """Read numbers that the CSV holds as a Python-like list in text: `[0.75, 0.75]`."""
    text = metadata[column]
    try:
        if len(text) > MAX_LITERAL:
            raise ValueError("too long")
        values = np.asarray([float(value) for value in ast.literal_eval(text)], dtype=np.float64)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise CaseError("bad-metadata", f"{path}: {column} is {text[:40]!r}, no list of {count} numbers") from None
    if values.shape != (count,) or not np.isfinite(values).all():
        raise CaseError("bad-metadata", f"{path}: {column} is {text[:40]!r}, no list of {count} numbers")
    return values
