"""Who may write into a store or a folder of masks now: shards of one count at once, else one process alone.

Two processes that share a case would remove each other's temporary files and records. Everything without `--shard` is
shard 0 of 1. Shards of different counts share cases, so they are refused as well. A killed process lets go of its lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from anatobench.errors import AnatoBenchError

_LOCK_FILE = re.compile(r"\.shard-(?P<index>[0-9]+)-of-(?P<count>[0-9]+)\.lock")


@contextmanager
def folder_locked(folder: Path) -> Iterator[bool]:
    """Wait for the folder and hold it; yields False where the file system has no such locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def open_lock(path: Path, create: bool = True) -> BinaryIO:
    """Open a lock's file, which stays empty, and make it if it is not there.

    OSError if it cannot be, `AnatoBenchError` if it is a pipe, or a link: in a folder where others write, too, that may
    lead to any file of the one who follows it.
    """
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise AnatoBenchError(
                f"{path}: is a link, which a lock never is: look who made it, then delete it"
            ) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AnatoBenchError(f"{path}: is no file, which a lock always is: look who made it, then delete it")
    return os.fdopen(descriptor, "r+b")


@contextmanager
def shard_locked(root: Path, shard: tuple[int, int], command: str = "prepare") -> Iterator[None]:
    """Hold the cases of shard (i, n). AnatoBenchError if a living process holds the same shard or one of another n.

    `command` is the one that writes into `root`.
    """
    index, count = shard
    path = root / f".shard-{index}-of-{count}.lock"
    with folder_locked(root):
        _refuse_beside(root, shard, command)
        file = open_lock(path)
        if not _try_to_hold(file):  # begun in the same moment, where folders cannot be locked
            file.close()
            raise _refusal(root, shard, shard, command)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _refuse_beside(root: Path, shard: tuple[int, int], command: str) -> None:
    """Raise if a process is at work that must not run beside `shard`; forget those that died."""
    for path in list(root.iterdir()):
        name = _LOCK_FILE.fullmatch(path.name)
        if name is None:
            continue
        other = int(name["index"]), int(name["count"])
        if not _is_held(path):
            path.unlink(missing_ok=True)
        elif other == shard or other[1] != shard[1]:
            raise _refusal(root, shard, other, command)


def _refusal(root: Path, shard: tuple[int, int], other: tuple[int, int], command: str) -> AnatoBenchError:
    return AnatoBenchError(
        f"{root}: another `anatobench {command}` {_called(other)} is writing here, and this one {_called(shard)} "
        "would do the same cases: wait for it, or stop it"
    )


def _called(shard: tuple[int, int]) -> str:
    return "without --shard" if shard == (0, 1) else f"with --shard {shard[0]}/{shard[1]}"


def _is_held(path: Path) -> bool:
    try:
        with open_lock(path, create=False) as file:
            return not _try_to_hold(file)
    except FileNotFoundError:  # it just ended
        return False


def _try_to_hold(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; False if another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing to hold
        pass
    return True
