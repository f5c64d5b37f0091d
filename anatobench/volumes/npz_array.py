"""One array of an `.npz` archive, read without pickle and without taking memory for what it only claims to hold."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.byte_stream import CHUNK_BYTES, MAX_DEFLATE_RATIO

ENCRYPTED = 0x1
"""General purpose bit flag 0 of the zip format."""
HEADER_ERRORS = (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError)
"""What NumPy raises for a damaged header, which is Python text to it."""


def read_npz_array(
    path: Path, name: str, dtypes: Sequence[str], what: str, check_shape: Callable[[Path, Sequence[int]], None]
) -> np.ndarray:
    """Return the array `name` of an archive, in C order and native bytes.

    Raises `CaseError` unless it is there, whole, of one of the `dtypes` and of a shape that `check_shape` lets pass.
    `what` says in errors what was looked for.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive, name, what)
            with archive.open(member) as stream:
                return _read_array(path, stream, member, name, dtypes, check_shape)
    except FileNotFoundError as error:
        raise CaseError("missing", f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise CaseError("truncated", f"{path}: truncated or damaged ({error}): download it again") from error


def _member(path: Path, archive: zipfile.ZipFile, name: str, what: str) -> zipfile.ZipInfo:
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        found = ", ".join(archive.namelist()[:5]) or "nothing"
        raise CaseError("bad-npz", f"{path}: a zip archive of {found}, not of {what} '{name}': unpack it") from None
    if member.flag_bits & ENCRYPTED:
        raise CaseError("bad-npz", f"{path}: is encrypted: unpack it first")
    return member


def _read_array(
    path: Path,
    stream: IO[bytes],
    member: zipfile.ZipInfo,
    name: str,
    dtypes: Sequence[str],
    check_shape: Callable[[Path, Sequence[int]], None],
) -> np.ndarray:
    """Return the array of an opened `.npy` member; memory is taken only for a size it can hold."""
    try:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran_order, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except HEADER_ERRORS as error:
        raise CaseError("bad-npz", f"{path}: its array '{name}' has a damaged header ({error})") from error
    if dtype.newbyteorder("=") not in [np.dtype(one) for one in dtypes]:
        raise CaseError("bad-npz", f"{path}: its array '{name}' is {dtype}, not {' or '.join(dtypes)}")
    check_shape(path, shape)
    count = dtype.itemsize * int(np.prod(shape, dtype=object))
    if member.file_size != stream.tell() + count or member.file_size > member.compress_size * MAX_DEFLATE_RATIO:
        raise CaseError("truncated", f"{path}: its array '{name}' claims {count} bytes, which it does not hold")
    voxels = np.empty(shape[::-1] if fortran_order else shape, dtype=dtype)
    view = memoryview(voxels.reshape(-1).view(np.uint8))
    done = 0
    while chunk := stream.read(CHUNK_BYTES):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done != count:
        raise CaseError("truncated", f"{path}: its array '{name}' ends {count - done} bytes early: download it again")
    if fortran_order:
        voxels = voxels.T
    return voxels if dtype.isnative else voxels.astype(dtype.newbyteorder("="))
