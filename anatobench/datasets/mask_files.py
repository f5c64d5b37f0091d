"""Which organ mask belongs to a scan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anatobench.datasets.case import Listing
from anatobench.errors import AnatoBenchError

SUFFIXES = (".nii.gz", ".nii", ".NII.GZ", ".NII")


def find_mask(folder: Path | None, stems: Iterable[str]) -> Path | None:
    """Return the first of `<folder>/<stem>.nii.gz` and `.nii` (or in capitals) that exists; None without a folder."""
    if folder is None:
        return None
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    return None


def check_masks_fit(listing: Listing, folder: Path) -> None:
    """Raise `AnatoBenchError` if a folder of masks was given and none of them is any case's: its names are others."""
    if not listing.cases or any(case.mask is not None and case.mask.is_relative_to(folder) for case in listing.cases):
        return
    wanted = f"{listing.cases[0].case_id}{SUFFIXES[0]}"
    found = next((path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")), "nothing")
    raise AnatoBenchError(
        f"{folder}: none of its masks belongs to a scan: a mask is one file named after its case, such as {wanted}, "
        f"and there is {found}"
    )


def mask_note(with_mask: int, total: int) -> str:
    """Return the summary's sentence on masks."""
    return f"{with_mask} of {total} scans have an organ mask"
