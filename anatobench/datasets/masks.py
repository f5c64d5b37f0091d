"""Which organ mask belongs to a scan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".nii.gz", ".nii", ".NII.GZ", ".NII")


def find_mask(folder: Path | None, stems: Iterable[str]) -> Path | None:
    """The first of `<folder>/<stem>.nii.gz` and `.nii` (or in capitals) that exists; None without a folder."""
    if folder is None:
        return None
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    return None


def mask_note(with_mask: int, total: int) -> str:
    """The summary's sentence on masks."""
    return f"{with_mask} of {total} scans have an organ mask"
