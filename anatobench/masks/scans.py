"""What there is to segment: the scans of a data set, or of any folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anatobench.datasets.case import SAFE_CASE_ID, Listing, Rejection, case_id_of_path
from anatobench.datasets.mask_files import find_mask
from anatobench.volumes.scan_folder import find_scans
from anatobench.volumes.volume import HeaderOverride


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
    rescale: str = "auto"
    """As `Case.rescale`."""


def scans_of_listing(listing: Listing) -> tuple[list[Scan], list[Rejection]]:
    """Return the scans of a data set's listing, sorted by case id, and those that the listing could not use."""
    rejected = list(listing.rejected)
    scans = []
    for case in sorted(listing.cases, key=lambda case: case.case_id):
        if SAFE_CASE_ID.fullmatch(case.case_id):
            scans.append(Scan(case.case_id, case.scan, case.header, case.mask, case.mask_labels, case.rescale))
        else:
            rejected.append(Rejection(case.case_id, str(case.scan), "bad-case-id", "its name cannot name a file"))
    return scans, rejected


def scans_in_folder(root: Path, masks: Path, rescale: str = "auto") -> tuple[list[Scan], list[Rejection]]:
    """Return every NIfTI and NPZ file and every folder with DICOM files below `root`, without what lies in `masks`, and
    what looks like a scan but cannot be one (`find_scans`).

    Case ids are the relative paths with `_` for `/`, as a manifest without case names has them.
    """
    found: dict[str, Scan] = {}
    listed = find_scans(root, (masks,))
    rejected = [
        Rejection(_case_id(root, one.path), str(one.path), one.reason, one.message) for one in listed.passed_over
    ]
    for path in listed.scans:
        case_id = _case_id(root, path)
        if not SAFE_CASE_ID.fullmatch(case_id):
            rejected.append(Rejection(case_id, str(path), "bad-case-id", f"{path}: its name cannot name a mask"))
        elif case_id in found:
            message = f"{path}: its mask would have the name of that of {found[case_id].path}: rename one"
            rejected.append(Rejection(case_id, str(path), "duplicate-id", message))
        else:
            mask = find_mask(masks if masks.is_dir() else None, (case_id,))
            found[case_id] = Scan(case_id, path, mask=mask, rescale=rescale)
    return [found[case_id] for case_id in sorted(found)], rejected


def _case_id(root: Path, path: Path) -> str:
    relative = path.relative_to(root).as_posix()
    return case_id_of_path(relative if relative != "." else root.resolve().name)
