"""What there is to segment: the scans of a data set, or of any folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anatobench.datasets.case import SAFE_CASE_ID, HeaderOverride, Listing, Rejection, case_id_of_path
from anatobench.datasets.masks import SUFFIXES, find_mask
from anatobench.volumes.dicom import is_dicom_file

SCAN_SUFFIXES = (*SUFFIXES, ".npz")


@dataclass(frozen=True)
class Scan:
    """One scan, and the mask that it has already."""

    case_id: str
    """Names its mask: `<case_id>.nii.gz`, which `prepare --masks` finds in every data set."""
    path: Path
    """A NIfTI or NPZ file, or a folder that holds one DICOM series."""
    header: HeaderOverride | None = None
    mask: Path | None = None
    mask_labels: str = "auto"


def scans_of_listing(listing: Listing) -> tuple[list[Scan], list[Rejection]]:
    """The scans of a data set's listing, sorted by case id, and those that the listing could not use."""
    rejected = list(listing.rejected)
    scans = []
    for case in sorted(listing.cases, key=lambda case: case.case_id):
        if SAFE_CASE_ID.fullmatch(case.case_id):
            scans.append(Scan(case.case_id, case.scan, case.header, case.mask, case.mask_labels))
        else:
            rejected.append(Rejection(case.case_id, str(case.scan), "bad-case-id", "its name cannot name a file"))
    return scans, rejected


def scans_in_folder(root: Path, masks: Path) -> tuple[list[Scan], list[Rejection]]:
    """Every NIfTI and NPZ file and every folder with DICOM files below `root`, without what lies in `masks`.

    Case ids are the relative paths with `_` for `/`, as a manifest without case names has them. Links are not followed.
    """
    found: dict[str, Scan] = {}
    rejected = []
    for path in _scan_paths(root, masks.resolve()):
        relative = path.relative_to(root).as_posix()
        case_id = case_id_of_path(relative if relative != "." else root.resolve().name)
        if not SAFE_CASE_ID.fullmatch(case_id):
            rejected.append(Rejection(case_id, str(path), "bad-case-id", f"{path}: its name cannot name a mask"))
        elif case_id in found:
            message = f"{path}: its mask would have the name of that of {found[case_id].path}: rename one"
            rejected.append(Rejection(case_id, str(path), "duplicate-id", message))
        else:
            found[case_id] = Scan(case_id, path, mask=find_mask(masks if masks.is_dir() else None, (case_id,)))
    return [found[case_id] for case_id in sorted(found)], rejected


def _scan_paths(root: Path, masks: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and (here / n).resolve() != masks)
        if here.resolve() == masks:
            continue
        names = sorted(name for name in files if not name.startswith("."))
        scans = [name for name in names if name.endswith(SCAN_SUFFIXES)]
        yield from (here / name for name in scans)
        others = [here / name for name in names if name not in scans]
        if any(is_dicom_file(path) for path in others if path.is_file()):
            yield here
