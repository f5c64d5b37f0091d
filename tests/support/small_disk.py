"""A small file system of a test's own, which can be full or read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FULL, READ_ONLY = "No space left on device", "Read-only file system"


class Disk:
    """A small file system of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self._filler = root, root / ".filler"

    def refuse(self, reason: str) -> None:
        """Be full, or read-only, from here on."""
        if reason == READ_ONLY:
            subprocess.run(["mount", "-o", "remount,ro", self.root], check=True)
            return
        with self._filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    def accept(self) -> None:
        """Let go of what `refuse` did."""
        subprocess.run(["mount", "-o", "remount,rw", self.root], check=True)
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(root: Path, size: int) -> Iterator[Disk]:
    """Mount a disk of so many bytes at a folder to be made; the test skips where that cannot be done."""
    root.mkdir()
    options = f"size={size}"
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", root]).returncode != 0:
        pytest.skip("a disk of a test's own can only be mounted by root, and not in every container")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
