"""Bytes of a file that may be gzip-compressed, read without trusting what the file says about its length."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from isal import igzip, isal_zlib

from anatobench.errors import CaseError

GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032
"""Deflate cannot expand further (RFC 1951: 258 bytes from two bits), so a claimed size can be checked beforehand."""
CHUNK_BYTES = 1 << 20
_BROKEN = (EOFError, OSError, zlib.error, cast(type[Exception], isal_zlib.error))


class ByteStream:
    """A file's bytes from front to back, decompressed on the way; failures are `CaseError`s that name the file."""

    def __init__(self, path: Path, file: IO[bytes], byte_limit: int):
        self.path = path
        self._file = file
        self._byte_limit = byte_limit

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        return self.read_array((count,), np.dtype(np.uint8)).tobytes()

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        for start in range(0, count, CHUNK_BYTES):
            self.read(min(CHUNK_BYTES, count - start))

    def read_array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the next bytes as a C-ordered array of this shape and type, allocated only if a file of this length
        can hold it."""
        count = dtype.itemsize * int(np.prod(shape, dtype=object))
        if count > self._byte_limit:
            raise self._truncated(f"its header claims {count} bytes, more than it can hold")
        array = np.empty(shape, dtype)
        view = memoryview(array.reshape(-1).view(np.uint8))
        done = 0
        while done < count:
            try:
                got = self._file.readinto(view[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]
            except _BROKEN as error:
                raise self._truncated(str(error)) from error
            if not got:
                raise self._truncated(f"it ends {count - done} bytes early")
            done += got
        return array

    def finish(self) -> None:
        """Read past the end, which is where gzip's checksum is compared. Further bytes are tolerated."""
        try:
            self._file.read(1)
        except _BROKEN as error:
            raise self._truncated(str(error)) from error

    def _truncated(self, detail: str) -> CaseError:
        return CaseError("truncated", f"{self.path}: truncated or damaged ({detail}): copy or download it again")


@contextmanager
def open_byte_stream(path: Path) -> Iterator[ByteStream]:
    """Open a file for reading, through gzip if its first bytes say so (whatever its name says)."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            size = path.stat().st_size
            if compressed:
                with igzip.IGzipFile(fileobj=raw, mode="rb") as file:
                    yield ByteStream(path, cast(IO[bytes], file), size * MAX_DEFLATE_RATIO)
            else:
                yield ByteStream(path, raw, size)
    except FileNotFoundError as error:
        raise CaseError("missing", f"{path}: no such file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise CaseError("unreadable", f"{path}: cannot be read ({error.strerror})") from error
