"""RAD-ChestCT's scans: an `.npz` with the int16 array `ct`, already in HU, 0.8 mm isotropic.

The file carries no geometry. Its axes run superior to inferior, anterior to posterior and right to left (the data set's
own preprocessing code, rachellea/ct-volume-preprocessing), which is the canonical orientation already.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.byte_stream import CHUNK_BYTES, MAX_DEFLATE_RATIO
from anatobench.volumes.limits import check_size
from anatobench.volumes.volume import Volume

ZIP_MAGIC = b"PK\x03\x04"
ARRAY_MEMBER = "ct.npy"
ENCRYPTED = 0x1
"""General purpose bit flag 0 of the zip format."""
HEADER_ERRORS = (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError)
"""What NumPy raises for a damaged header, which is Python text to it."""
SPACING_MM = 0.8
AFFINE = np.diag([-SPACING_MM, -SPACING_MM, -SPACING_MM, 1.0])[[2, 1, 0, 3]]
"""(d, h, w) to RAS+: d points down, h backwards, w to the patient's left. The origin is arbitrary."""


def is_npz_file(path: Path) -> bool:
    """Return whether the file is a zip archive, as every `.npz` is."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def read_rad_chestct_npz(path: Path) -> Volume:
    """Read a RAD-ChestCT scan. Raises `CaseError` unless it holds a whole 3-D int16 array named `ct`."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive)
            with archive.open(member) as stream:
                voxels = _read_array(path, stream, member)
    except FileNotFoundError as error:
        raise CaseError("missing", f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise CaseError("truncated", f"{path}: truncated or damaged ({error}): download it again") from error
    return Volume(voxels, AFFINE.copy())


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    try:
        member = archive.getinfo(ARRAY_MEMBER)
    except KeyError:
        found = ", ".join(archive.namelist()[:5]) or "nothing"
        raise CaseError(
            "bad-npz", f"{path}: a zip archive of {found}, not of RAD-ChestCT's array 'ct': unpack it"
        ) from None
    if member.flag_bits & ENCRYPTED:
        raise CaseError("bad-npz", f"{path}: is encrypted: unpack it first")
    return member


def _read_array(path: Path, stream: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of an opened `.npy` member, native int16 in C order; memory is taken only for a size it can
    hold."""
    try:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran_order, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except HEADER_ERRORS as error:
        raise CaseError("bad-npz", f"{path}: its array 'ct' has a damaged header ({error})") from error
    if dtype.kind != "i" or dtype.itemsize != 2:
        raise CaseError("bad-npz", f"{path}: its array 'ct' is {dtype}, not int16 HU")
    check_size(path, shape)
    count = dtype.itemsize * int(np.prod(shape, dtype=object))
    if member.file_size != stream.tell() + count or member.file_size > member.compress_size * MAX_DEFLATE_RATIO:
        raise CaseError("truncated", f"{path}: its array 'ct' claims {count} bytes, which it does not hold")
    voxels = np.empty(shape[::-1] if fortran_order else shape, dtype=dtype)
    view = memoryview(voxels.reshape(-1).view(np.uint8))
    done = 0
    while chunk := stream.read(CHUNK_BYTES):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done != count:
        raise CaseError("truncated", f"{path}: its array 'ct' ends {count - done} bytes early: download it again")
    if fortran_order:
        voxels = voxels.T
    return voxels if dtype.isnative else voxels.astype(np.int16)
