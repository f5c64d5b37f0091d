"""NIfTI-1 and NIfTI-2 scans and masks, plain or gzip-compressed, either byte order.

int16 scans without rescaling are never copied: the voxels of the returned `Volume` are a view of the bytes read.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from anatobench.errors import CaseError
from anatobench.system.atomic_files import write_atomically
from anatobench.volumes.byte_stream import ByteStream, open_byte_stream
from anatobench.volumes.hounsfield import Histogram, shows_air_and_tissue, why_not_hounsfield
from anatobench.volumes.label_names import EXTENSION_CODE, format_label_names, parse_label_names
from anatobench.volumes.limits import check_affine, check_size, check_spacing, plausible_spacing
from anatobench.volumes.orientation import is_sheared, to_canonical
from anatobench.volumes.volume import AIR_HU, HeaderOverride, Mask, Volume

MAX_EXTENSION_BYTES = 16 << 20
MAX_DISAGREEMENT, MIN_DISAGREEMENT_MM = 0.5, 0.1
"""Of sform and qform: share of the smallest voxel spacing, and what rounding of the quaternion explains."""
MAX_LABEL = np.iinfo(np.uint16).max
_HEADERS: dict[int, type[nibabel.Nifti1Header]] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class _StoredImage:
    """A NIfTI file as it is on disk."""

    voxels: np.ndarray
    """[k, j, i] of the file's own type: C order of the file's (i, j, k)."""
    header: nibabel.Nifti1Header
    names: dict[int, str] | None


def read_nifti_volume(path: Path, header: HeaderOverride | None = None, trusted: bool = False) -> Volume:
    """Read a CT scan in HU. `header` replaces the file's own rescaling and affine.

    Values beyond int16 saturate; NaN outside the view is air. Where the voxels are no HU as they are said to be, but
    plainly are in another reading of the same bits (unsigned words that are signed, an original of CT-RATE that is in
    HU already), that one is taken, with a note, unless they are `trusted`. Raises `CaseError` for a file that is not a
    readable, finite, placed 3-D scan.
    """
    image = _read_image(path, check_pixdim=header is None)
    notes: list[str] = []
    if header is None:
        slope, intercept = _rescaling(path, image.header)
        affine = _affine(path, image.header)
        notes += _units_note(image.header) + _pixdim_note(image.header, affine)
    else:
        slope, intercept, affine = header.slope, header.intercept, np.asarray(header.affine, dtype=np.float64)
        check_affine(path, affine)
        if not (np.isfinite([slope, intercept]).all() and slope != 0):
            raise CaseError("bad-rescale", f"{path}: the metadata's slope {slope} and intercept {intercept} give no HU")
    stored = _with_air_outside(path, image.voxels, slope, intercept, notes)
    if not trusted:
        stored, slope, intercept = _as_hounsfield(path, stored, slope, intercept, header is not None, notes)
    hounsfield = _to_hounsfield(path, stored, slope, intercept)
    return Volume(*to_canonical(hounsfield, _reversed_axes(affine)), tuple(notes))


def read_nifti_affine(path: Path) -> np.ndarray:
    """Return how a file's own voxels lie, float64 [4, 4], indexed (k, j, i) as `write_nifti` takes them;
    `CaseError`."""
    with open_byte_stream(path) as stream:
        return _reversed_axes(_affine(path, _read_header(stream)))


def read_nifti_mask(path: Path) -> Mask:
    """Read an organ mask: whole labels from 0, as uint8 or uint16, with the label names if the file carries them."""
    image = _read_image(path)
    slope, intercept = _rescaling(path, image.header)
    labels = _to_labels(path, image.voxels, slope, intercept)
    return Mask(*to_canonical(labels, _reversed_axes(_affine(path, image.header))), image.names)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, names: Mapping[int, str] | None = None) -> None:
    """Write [D, H, W] voxels (int16 HU, uint8/uint16 labels, float32) atomically; `.gz` in the name compresses.

    The file's fastest axis is W. A sheared affine is written as sform alone. The same arrays give the same bytes.
    `names` become a label table (label_names.py).
    """
    if array.dtype not in (np.int16, np.uint8, np.uint16, np.float32):
        raise ValueError(f"{array.dtype} voxels: write int16, uint8, uint16 or float32")
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), _reversed_axes(affine), dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    # A quaternion cannot say that the gantry was tilted: then there is none, and no reader takes the scan for another.
    image.set_qform(image.affine, code=0 if is_sheared(affine) else 1)
    if names:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(EXTENSION_CODE, format_label_names(names)))
    write_nifti_image(path, image)


def write_nifti_image(path: Path, image: nibabel.Nifti1Image) -> None:
    """Write an image whose header is made already, atomically; `.gz` in the name compresses, without name or time."""
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=3, mtime=0) as file:
            file.write(content)
        content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _read_image(path: Path, check_pixdim: bool = True) -> _StoredImage:
    with open_byte_stream(path) as stream:
        header = _read_header(stream)
        shape = _shape(path, header)
        if check_pixdim:
            spacing = header["pixdim"][1:4] * _millimetres(header)
            check_spacing(path, np.abs(spacing) if header["sform_code"] > 0 else spacing)
        dtype = _voxel_type(path, header)
        names = _read_extensions(stream, header)
        voxels = stream.read_array(shape[::-1], dtype)
        stream.finish()
    return _StoredImage(voxels, header, names)


def _read_header(stream: ByteStream) -> nibabel.Nifti1Header:
    start = stream.read(4)
    for order in ("little", "big"):
        header_type = _HEADERS.get(int.from_bytes(start, order))
        if header_type is None:
            continue
        block = start + stream.read(header_type.sizeof_hdr - 4)
        header = header_type(block, check=False)
        if header["magic"].item() in (header_type.single_magic, header_type.single_magic.rstrip(b"\0")):
            return header
        break
    raise CaseError("not-nifti", f"{stream.path}: not a single-file NIfTI (.nii or .nii.gz): convert it")


def _shape(path: Path, header: nibabel.Nifti1Header) -> tuple[int, ...]:
    """(i, j, k); further axes may only have one entry."""
    axes = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : axes + 1]] if 1 <= axes <= 7 else []
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    check_size(path, shape)
    return tuple(shape)


def _voxel_type(path: Path, header: nibabel.Nifti1Header) -> np.dtype:
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise CaseError("bad-voxel-type", f"{path}: its voxel type {code} is unknown: is it damaged?") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CaseError("bad-voxel-type", f"{path}: voxels of type {dtype} are neither HU nor labels")
    return dtype


def _read_extensions(stream: ByteStream, header: nibabel.Nifti1Header) -> dict[int, str] | None:
    """Pass from the header to the voxels; the label names found on the way."""
    position = header.sizeof_hdr + 4
    offset = float(header["vox_offset"]) or position
    if not position <= offset <= position + MAX_EXTENSION_BYTES or offset != int(offset):
        raise CaseError("bad-header", f"{stream.path}: its voxels are said to start at byte {offset:g}: is it damaged?")
    content = stream.read(int(offset) - header.sizeof_hdr)
    names = None
    order: Literal["little", "big"] = "big" if header.endianness == ">" else "little"
    start, extended = 4, content[0] != 0
    while extended and start + 8 <= len(content):
        length = int.from_bytes(content[start : start + 4], order, signed=True)
        if not 8 <= length <= len(content) - start:
            break  # a damaged extension takes only the names along
        names = names or parse_label_names(content[start + 8 : start + length])
        start += length
    return names


def _affine(path: Path, header: nibabel.Nifti1Header) -> np.ndarray:
    """Voxel (i, j, k) to RAS+ millimetres: the sform, else the qform. Without either, left and right are unknown."""
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        raise CaseError(
            "no-orientation",
            f"{path}: its header gives no orientation (sform and qform codes are 0): set one of them",
        )
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # the NIfTI standard: "if qfac is 0, take 1"
    try:
        affine = header.get_sform() if header["sform_code"] > 0 else header.get_qform()
        other = header.get_qform() if header["sform_code"] > 0 and header["qform_code"] > 0 else affine
    except (HeaderDataError, ValueError) as error:
        raise CaseError("bad-affine", f"{path}: {error}") from error
    scale = np.array([_millimetres(header)] * 3 + [1.0])[:, None]
    in_millimetres: np.ndarray = np.asarray(affine, dtype=np.float64) * scale
    check_affine(path, in_millimetres)
    _check_agreement(path, header, in_millimetres, np.asarray(other, dtype=np.float64) * scale)
    return in_millimetres


def _millimetres(header: nibabel.Nifti1Header) -> float:
    """Return the header's unit of length; most headers that name none are in millimetres, and so are those whose
    unit would make voxels that no scanner makes."""
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    if header["sform_code"] > 0:
        spacing = np.linalg.norm([header[f"srow_{axis}"][:3] for axis in "xyz"], axis=0)
    else:
        spacing = np.abs(header["pixdim"][1:4])
    return 1.0 if plausible_spacing(spacing) and not plausible_spacing(spacing * unit) else unit


def _units_note(header: nibabel.Nifti1Header) -> list[str]:
    if int(header["xyzt_units"]) & 7 in (1, 3) and _millimetres(header) == 1:
        return ["its unit of length would make impossible voxels: its numbers are taken for millimetres"]
    return []


def _check_agreement(path: Path, header: nibabel.Nifti1Header, sform: np.ndarray, qform: np.ndarray) -> None:
    """Raise `CaseError` if the header's two transforms place a corner of the scan half a voxel apart."""
    corners = np.array([[*corner, 1] for corner in product(*((0, int(n) - 1) for n in header["dim"][1:4]))]).T
    apart = np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max()
    limit = max(MAX_DISAGREEMENT * np.linalg.norm(sform[:3, :3], axis=0).min(), MIN_DISAGREEMENT_MM)
    if not apart <= limit:
        raise CaseError(
            "sform-contradicts-qform",
            f"{path}: its sform and its qform place it up to {apart:.1f} mm apart: set the code of the wrong one to 0",
        )


def _pixdim_note(header: nibabel.Nifti1Header, affine: np.ndarray) -> list[str]:
    """Note that, where the sform alone places a scan, some tools take the spacing from pixdim all the same."""
    spacing, own = np.linalg.norm(affine[:3, :3], axis=0), np.abs(header["pixdim"][1:4]) * _millimetres(header)
    if header["qform_code"] > 0 or np.allclose(spacing, own, rtol=0.01) or (own == 1).all():
        return []
    return [f"pixdim says {_shown(own)} mm and the sform {_shown(spacing)} mm: the sform is used"]


def _shown(spacing: np.ndarray) -> str:
    return " x ".join(f"{s:g}" for s in np.round(spacing, 3))


def _rescaling(path: Path, header: nibabel.Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise CaseError("bad-rescale", f"{path}: {error}") from error
    return (1.0, 0.0) if slope is None else (slope, intercept)


def _reversed_axes(affine: np.ndarray) -> np.ndarray:
    """Return the affine for the same voxels indexed (k, j, i) instead of (i, j, k), and the other way round."""
    return affine[:, [2, 1, 0, 3]]


def _with_air_outside(path: Path, stored: np.ndarray, slope: float, intercept: float, notes: list[str]) -> np.ndarray:
    """Air for NaN outside the view: whatever hangs together with a corner of the scan. `CaseError` for any other."""
    if stored.dtype.kind != "f" or not any(np.isnan(plane.min()) for plane in stored):  # a minimum hands NaN on
        return stored
    missing = np.isnan(stored)
    labels, _ = ndimage.label(missing)
    corners = set(labels[:: len(labels) - 1, :: labels.shape[1] - 1, :: labels.shape[2] - 1].flat) - {0}
    if not np.isin(labels[missing], list(corners)).all():
        raise CaseError("nan", f"{path}: has voxels inside its view that are NaN: repair or leave out this scan")
    notes.append(f"{missing.mean():.1%} of the voxels, outside the view, are NaN: made air")
    return np.where(missing, stored.dtype.type((AIR_HU - intercept) / slope), stored)


def _as_hounsfield(
    path: Path, stored: np.ndarray, slope: float, intercept: float, overridden: bool, notes: list[str]
) -> tuple[np.ndarray, float, float]:
    """Return the stored words, slope and intercept that give HU: as they are said to be, or else as the voxels show."""
    signed = stored.dtype == np.uint16
    if not signed and not (overridden and (slope, intercept) != (1.0, 0.0)):
        return stored, slope, intercept
    sample = _thinned(stored)
    if why_not_hounsfield(_to_hounsfield(path, sample.copy(), slope, intercept)) is None:
        return stored, slope, intercept
    if overridden and _plainly_hounsfield(path, sample, 1.0, 0.0):
        notes.append("its values are in HU already: the metadata's slope and intercept would rescale them twice")
        return stored, 1.0, 0.0
    words = np.dtype(np.int16).newbyteorder(stored.dtype.byteorder)
    if signed and _plainly_hounsfield(path, sample.view(words), slope, intercept):
        notes.append("its voxel type is unsigned, but only as signed words do the voxels show air and tissue")
        return stored.view(words), slope, intercept
    return stored, slope, intercept


def _plainly_hounsfield(path: Path, sample: np.ndarray, slope: float, intercept: float) -> bool:
    return shows_air_and_tissue(Histogram.of(_to_hounsfield(path, sample.copy(), slope, intercept)))


def _thinned(stored: np.ndarray) -> np.ndarray:
    """About a million voxels of a large array, whole rows of it."""
    step = max(1, round((stored.size / (1 << 20)) ** 0.5))
    return np.ascontiguousarray(stored[:: min(step, len(stored) // 2 or 1), :: min(step, stored.shape[1] // 2 or 1)])


def _to_hounsfield(path: Path, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """int16 HU, in the memory of `stored` if that is int16 as well."""
    plain = stored.dtype == np.int16 and stored.dtype.isnative
    if plain and (slope, intercept) == (1.0, 0.0):
        return stored
    only_shifted = plain and slope == 1 and intercept == np.clip(np.rint(intercept), _INT16.min, _INT16.max)
    hounsfield = stored if plain else np.empty(stored.shape, dtype=np.int16)
    for plane, target in zip(stored, hounsfield, strict=True):  # plane by plane, so that it stays in the cache
        if only_shifted and _INT16.min <= plane.min() + intercept and plane.max() + intercept <= _INT16.max:
            target += np.int16(intercept)
        else:
            target[:] = _rescaled_plane(path, plane, slope, intercept)
    return hounsfield


def _rescaled_plane(path: Path, plane: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """HU as whole floats within int16's range; values beyond it saturate."""
    exact_in_float32 = plane.dtype.itemsize <= 2 or plane.dtype == np.float32  # 64-bit and 32-bit integers are not
    values = plane.astype(np.float32 if exact_in_float32 else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
        np.multiply(values, slope, out=values)
        np.add(values, intercept, out=values)
    if plane.dtype.kind == "f" and not np.isfinite(values).all():
        raise CaseError("nan", f"{path}: has voxels that are NaN or infinite: repair or leave out this scan")
    np.rint(values, out=values)
    return np.clip(values, _INT16.min, _INT16.max, out=values)


def _to_labels(path: Path, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0) and stored.dtype.isnative and stored.dtype in (np.uint8, np.uint16):
        return stored
    labels = np.empty(stored.shape, dtype=np.uint16)
    for plane, target in zip(stored, labels, strict=True):
        values = plane.astype(np.float64) * slope + intercept
        whole = np.isfinite(values).all() and np.array_equal(values, np.rint(values))
        if not whole or values.min() < 0 or values.max() > MAX_LABEL:
            raise CaseError("bad-mask", f"{path}: a mask holds whole labels from 0 to {MAX_LABEL}: is this an image?")
        target[:] = values
    return labels.astype(np.uint8) if labels.max() < 256 else labels
