"""A DICOM series of CT slices, as RATIC has them: one file per slice in one folder.

Slices are placed by their positions in the patient, never by file name or instance number, which may start anywhere and
run either way. Rescaling is read per slice.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.pixels import get_decoder
from scipy import ndimage

from anatobench.errors import CaseError
from anatobench.volumes.dicom_acquisitions import check_no_second_scan, check_one_scan
from anatobench.volumes.dicom_frames import check_frame, decoder_streams_silent, unknown_process
from anatobench.volumes.dicom_header import series_files
from anatobench.volumes.dicom_slice import Slice
from anatobench.volumes.dicom_tags import read_dataset
from anatobench.volumes.hounsfield import (
    LOWEST_POSSIBLE,
    OVERRIDE,
    Histogram,
    shows_air_and_tissue,
    why_not_hounsfield,
)
from anatobench.volumes.limits import check_affine, check_size
from anatobench.volumes.orientation import to_canonical
from anatobench.volumes.volume import AIR_HU, Volume

SAME_POSITION_MM = 1e-2
UNEVEN_SHARE = 0.2
"""Share of the slice distance by which a gap may differ from the others."""
MISSING_SHARE = 0.5
"""A gap that is larger by this share is a missing slice and no rounding."""
DIRECTION_TOLERANCE = 1e-3
GOES_ON = 1.5
"""So many times as far from its neighbour is a slice with a wrong rescaling as with the neighbour's."""
AIR_THRESHOLD_HU = -900
AIR_SHARE = 0.01
LOWEST_UNSIGNED = -1024
DENSE_BONE, AMID_TISSUE = 1500, -300
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient axes grow to the left and backwards, NIfTI's to the right and forwards."""
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class _Reading:
    """How the stored words of a series are to be understood, where its tags and its voxels contradict each other."""

    inverted: bool = False
    signed_bits: int | None = None
    """Words under an unsigned tag that are signed, of so many bits."""
    unsigned: bool = False
    """Words under a signed tag that are unsigned."""


def read_dicom_series(folder: Path, trusted: bool = False) -> Volume:
    """Read the one CT series in `folder` (its own files alone; what is not DICOM or not a CT slice is passed over).

    The slice distance is that of the first and last position over the number of steps; SliceThickness is not used.
    `trusted`: the values are HU whatever RescaleType and the voxels say. Raises `CaseError` for no or several series,
    missing, duplicate or unequal slices, and undecodable pixels.
    """
    files = series_files(folder, trusted)
    slices, notes = files.slices, list(files.notes)
    _check_same(folder, slices)
    size = (len(slices), *slices[0].size)
    check_size(folder, size)
    slices, affine = _stack(folder, slices)
    notes += check_one_scan(folder, slices)
    check_affine(folder, affine)
    middle = slices[len(slices) // 2]
    reading, probed = _reading(middle, trusted)
    if reading.signed_bits is not None:
        notes.append("PixelRepresentation says unsigned, but only as signed words do the voxels show air and tissue")
    hounsfield = np.empty(size, dtype=np.int16)
    if not trusted:
        _check_rescaling(slices)
    padded = 0
    for one, target in zip(slices, hounsfield, strict=True):
        target[:], in_slice = probed if one is middle and probed else _slice_hounsfield(one, reading)
        padded += in_slice
    if reading.signed_bits is not None and _amid_tissue(hounsfield, LOWEST_POSSIBLE):
        raise CaseError(
            "not-hounsfield",
            f"{folder}: as unsigned words these are no HU, and as signed ones parts amid tissue are lighter than air: "
            f"padding or bone was wrapped: convert the series again, or {OVERRIDE}",
        )
    if not trusted and _wraps(middle, hounsfield):
        reading = _Reading(unsigned=True)
        unsigned = np.stack([_slice_hounsfield(one, reading)[0] for one in slices])
        plainly = shows_air_and_tissue(Histogram.of(_slice_hounsfield(replace(middle, padding=None), reading)[0]))
        if plainly and shows_air_and_tissue(Histogram.of(unsigned)) and unsigned.min() >= LOWEST_UNSIGNED:
            hounsfield = unsigned
            notes.append("PixelRepresentation says signed, but only as unsigned words is nothing lighter than air")
    if not trusted:
        _check_rescaling_goes_on(slices, hounsfield)
    check_no_second_scan(folder, slices, hounsfield)
    if padded:
        notes.append(f"{padded / hounsfield.size:.1%} of the voxels are padding by PixelPaddingValue, made air")
    return Volume(*to_canonical(hounsfield, affine), tuple(notes))


def _check_same(folder: Path, slices: list[Slice]) -> None:
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
            and (other.bits, other.signed, other.inversion) == (first.bits, first.signed, first.inversion)
        )
        if not same:
            raise CaseError(
                "inconsistent-slices",
                f"{folder}: {first.path.name} and {other.path.name} differ in size, spacing, direction or pixel type",
            )


def _stack(folder: Path, slices: list[Slice]) -> tuple[list[Slice], np.ndarray]:
    """Return the slices in the order of their positions, and the affine of (slice, row, column) to RAS+ millimetres."""
    first = slices[0]
    normal = np.cross(first.along_row, first.along_column)
    slices = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in slices])
    gaps = np.diff(positions, axis=0) @ normal
    if (gaps < SAME_POSITION_MM).any():
        at = int(np.argmin(gaps))
        names = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        raise CaseError("duplicate-slices", f"{folder}: {names} lie at the same position: keep one of them")
    step = (positions[-1] - positions[0]) / (len(slices) - 1)  # not along the normal if the gantry is tilted
    _check_gaps(folder, slices, gaps)
    distance = float(gaps.mean())
    drift = np.abs(positions - positions[0] - np.arange(len(slices))[:, None] * step).max()
    if drift > max(distance / 2, *first.pixel_spacing):
        raise CaseError("uneven-slices", f"{folder}: its slices do not lie at even distances on one line")
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.along_column * first.pixel_spacing[0]
    affine[:3, 2] = first.along_row * first.pixel_spacing[1]
    affine[:3, 3] = slices[0].position
    return slices, LPS_TO_RAS @ affine


def _check_gaps(folder: Path, slices: list[Slice], gaps: np.ndarray) -> None:
    """Raise `CaseError` for gaps that differ by more than jitter, or than the rounding of their digits explains."""
    usual, mean = float(np.median(gaps)), float(gaps.mean())
    tolerance = max(UNEVEN_SHARE * usual, SAME_POSITION_MM)
    unit = max(one.position_unit for one in slices)
    if np.abs(gaps - usual).max() <= tolerance:
        return
    if np.abs(gaps - mean).max() <= 1.01 * unit and gaps.max() < (1 + MISSING_SHARE) * mean:
        return  # both ends of a gap were rounded
    at = int(np.argmax(gaps))
    if gaps[at] > usual + tolerance:
        names = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        raise CaseError(
            "missing-slices", f"{folder}: {gaps[at]:g} mm between {names} where others are {usual:g} mm apart"
        )
    raise CaseError("uneven-slices", f"{folder}: its slices do not lie at even distances on one line")


def _reading(one: Slice, trusted: bool) -> tuple[_Reading, tuple[np.ndarray, int] | None]:
    """Return how the words of a series are to be understood, judged by one slice from its middle, and that slice if it
    was read in this way.

    MONOCHROME1: by the standard the word only concerns display, but some exporters invert, and RATIC's published
    readers undo it. Every CT shows air, so the values are inverted unless only the plain reading has any. Unsigned
    words: if as such they are no HU, but as signed ones they show air and tissue, then they are signed.
    """
    plain = _Reading()
    if one.inversion is not None:
        inverted = replace(plain, inverted=True)
        shown = [_shows_air(_slice_hounsfield(one, reading)[0]) for reading in (plain, inverted)]
        return (plain if shown == [True, False] else inverted), None
    if one.signed or trusted:
        return plain, None
    found = _slice_hounsfield(one, plain)
    if why_not_hounsfield(found[0][None]) is None:
        return plain, found
    for bits in sorted({one.bits, 12, 16}):
        signed = _Reading(signed_bits=bits)
        if shows_air_and_tissue(Histogram.of(_slice_hounsfield(one, signed)[0])):
            return signed, None
    return plain, found


def _wraps(one: Slice, hounsfield: np.ndarray) -> bool:
    """Return whether dense words may have lost their highest bit to a sign: amid tissue there is what is lighter than
    air can be, or negative words where the signed ones would not reach dense bone. Padding lies in air and in the
    corners."""
    if not one.signed or one.inversion is not None or one.bits >= 16:
        return False
    top = ((1 << (one.bits - 1)) - 1) * one.slope + one.intercept
    limit = LOWEST_POSSIBLE if top >= DENSE_BONE else max(LOWEST_POSSIBLE, round(one.intercept))
    return _amid_tissue(hounsfield, limit)


def _amid_tissue(hounsfield: np.ndarray, limit: int) -> bool:
    """Return whether what is below `limit` lies amid tissue, leaving out the constants of the corners."""
    below = hounsfield < limit
    corners, counts = np.unique(hounsfield[:, [0, 0, -1, -1], [0, -1, 0, -1]], return_counts=True)
    for padding in corners[counts >= 2]:
        below &= hounsfield != padding
    if not below.any():
        return False
    starts, ends = below[..., 1:] & ~below[..., :-1], below[..., :-1] & ~below[..., 1:]
    beside = np.concatenate([hounsfield[..., :-1][starts], hounsfield[..., 1:][ends]])
    return bool(np.mean(beside > AMID_TISSUE) > 0.5) if len(beside) else False


def _check_rescaling(slices: list[Slice]) -> None:
    """Raise `CaseError` for a slice of another rescaling than most that is no HU where those are."""
    pairs = Counter((one.slope, one.intercept) for one in slices)
    if len(pairs) == 1:
        return
    usual = pairs.most_common(1)[0][0]
    sample = next(one for one in slices if (one.slope, one.intercept) == usual)
    if why_not_hounsfield(_slice_hounsfield(sample, _Reading())[0][None]) is not None:
        return  # the whole is judged later
    for one in slices:
        if (one.slope, one.intercept) != usual:
            against = why_not_hounsfield(_slice_hounsfield(one, _Reading())[0][None])
            if against is not None:
                raise CaseError(
                    "not-hounsfield",
                    f"{one.path}: its RescaleSlope and RescaleIntercept are not those of the others, and with them it "
                    f"is no HU: {against}: {OVERRIDE}",
                )


def _check_rescaling_goes_on(slices: list[Slice], hounsfield: np.ndarray) -> None:
    """Raise `CaseError` for a slice of another rescaling than its neighbours with which its words would go on where
    they stop, and with its own do not."""
    for index, one in enumerate(slices):
        beside = index - 1 if index else 1
        other = slices[beside]
        if (one.slope, one.intercept) == (other.slope, other.intercept):
            continue
        own = hounsfield[index].astype(np.float64)
        same = (own - one.intercept) / one.slope * other.slope + other.intercept
        apart, together = (float(np.abs(values - hounsfield[beside]).mean()) for values in (own, same))
        if apart > GOES_ON * together:
            raise CaseError(
                "not-hounsfield",
                f"{one.path}: its RescaleSlope and RescaleIntercept are not those of {other.path.name}, and with those "
                f"its voxels would go on: {OVERRIDE}",
            )


def _shows_air(hounsfield: np.ndarray) -> bool:
    return bool(np.mean(hounsfield <= AIR_THRESHOLD_HU) >= AIR_SHARE)


def _slice_hounsfield(one: Slice, reading: _Reading) -> tuple[np.ndarray, int]:
    """Return one slice's pixels as int16 HU [rows, columns], and how many were padding; values beyond int16
    saturate."""
    stored = _stored_pixels(one)
    precise = np.float32 if stored.dtype.itemsize <= 2 else np.float64
    values: np.ndarray = stored.astype(precise)
    if reading.signed_bits is not None:
        values[stored >= 1 << (reading.signed_bits - 1)] -= 1 << reading.signed_bits
    if reading.unsigned:
        values[stored < 0] += 1 << one.bits
    if reading.inverted and one.inversion is not None:
        values = one.inversion - values
    values *= one.slope
    values += one.intercept
    np.rint(values, out=values)
    hounsfield = np.clip(values, _INT16.min, _INT16.max).astype(np.int16)
    return hounsfield, _pad(hounsfield, stored, one.padding)


def _pad(hounsfield: np.ndarray, stored: np.ndarray, padding: tuple[int, int] | None) -> int:
    """Make air of padding that is denser than air; how many pixels. The tag is believed where it fills corners, and of
    what hangs together with them: many headers name a value that is a measurement like any other."""
    if padding is None:
        return 0
    corners = stored[[0, 0, -1, -1], [0, -1, 0, -1]]
    if np.count_nonzero((corners >= padding[0]) & (corners <= padding[1])) < 2:
        return 0
    padded = (stored >= padding[0]) & (stored <= padding[1]) & (hounsfield > AIR_HU)
    if padded.any():
        parts, _ = ndimage.label(padded)
        padded &= np.isin(parts, parts[[0, 0, -1, -1], [0, -1, 0, -1]])
    hounsfield[padded] = AIR_HU
    return int(np.count_nonzero(padded))


def _stored_pixels(one: Slice) -> np.ndarray:
    """Return the stored values. pydicom clears or sign-extends the bits above BitsStored, which some scanners leave
    dirty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_dataset(one.path, pixels=True, deflated=one.deflated)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        known = not syntax.is_compressed or get_decoder(syntax).is_available
    except (ValueError, NotImplementedError, AttributeError):  # a damaged word, or a syntax that holds no pixels
        known = False
    if not known:
        raise CaseError("unsupported-pixels", f"{one.path}: no decoder for {syntax.name}: decompress the series first")
    check_frame(one.path, dataset, syntax, one.size)
    with warnings.catch_warnings(), decoder_streams_silent(syntax):
        warnings.simplefilter("ignore")
        try:
            pixels = dataset.pixel_array
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the decoders raise many types, one of them not even an Exception
            process = unknown_process(dataset)
            if process is not None:
                advice = f"{one.path}: no decoder here for {process}: decompress the series first"
                raise CaseError("unsupported-pixels", advice) from None
            told = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "it", " ".join(str(error).split()))[:200] or type(error).__name__
            raise CaseError("truncated", f"{one.path}: its pixel data is damaged ({told}): copy it again") from None
    if pixels.shape != one.size:
        raise CaseError("truncated", f"{one.path}: its pixels are {pixels.shape}, its header says {one.size}")
    if pixels.dtype.kind not in "iu":
        raise CaseError("unsupported-pixels", f"{one.path}: pixels of type {pixels.dtype} are no CT: convert it")
    return pixels
