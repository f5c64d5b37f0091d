"""Files that are there whole or not at all, whenever the power goes or a job is killed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anatobench.errors import AnatoBenchError

TEMPORARY_SUFFIX = ".tmp"


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path` under a hidden temporary name, flush to the disk, then rename over `path`.

    Raises OSError (no space, no permission); nothing is left behind then. A kill may leave the temporary file,
    `.<name>.<8 hexadecimal digits>.tmp`, for the caller to find.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # a read-only disk refuses this, too, and what it said first counts
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk is reported without a name, or with the temporary one
            error.filename = str(path)
        raise
    flush_folder(path.parent)


def remove_whatever(path: Path) -> None:
    """Remove a folder with all that is in it, a file, or a link but not where it leads; OSError if it cannot be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder, so a rename, are on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors_named(command: str) -> Iterator[None]:
    """Name a disk that refuses the work of a command that can be called again: it is no case's fault and no bug."""
    try:
        yield
    except OSError as error:
        raise AnatoBenchError(
            f"cannot write {error.filename}: {error.strerror}: make room or correct the permissions, then run "
            f"`anatobench {command}` again: what is finished stays"
        ) from None
