"""The scans of any folder, and what looks like one but cannot be taken: nothing is left out without a word."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from anatobench.volumes.dicom_tags import is_dicom_file

SCAN_SUFFIXES = (".nii.gz", ".nii", ".npz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DICOM_INDEX = "dicomdir"
"""Names the files of a medium, and is a DICOM file without an image."""
OTHER_FORMATS = {
    "convert it to NIfTI": (
        *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".img", ".img.gz", ".hdr", ".gipl", ".npy"),
        *(".h5", ".hdf5", ".tif", ".tiff"),
    ),
    "copy it again": (".nii.gz.part", ".nii.gz.tmp", ".nii.gz.crdownload", ".nii.gz.incomplete"),
    "unpack it": (
        *(".nii.bz2", ".nii.xz", ".nii.zst"),
        *(".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".dcm.gz"),
    ),
}


@dataclass(frozen=True)
class PassedOver:
    """What is no scan that can be read here."""

    path: Path
    reason: str
    message: str


@dataclass(frozen=True)
class ScanFolder:
    """What a folder holds, sorted by path."""

    scans: tuple[Path, ...]
    """NIfTI and NPZ files, and folders with DICOM files."""
    passed_over: tuple[PassedOver, ...]


def find_scans(root: Path, without: Collection[Path] = ()) -> ScanFolder:
    """Return scans at any depth below `root`, or `root` itself, without what lies in the folders `without`.

    Names may be in capitals, files may be links; hidden names, linked folders and folders named in `without` are not
    entered. Only regular files are opened: a pipe would be waited for.
    """
    skipped = {folder.resolve() for folder in without}
    scans: list[Path] = []
    passed_over: list[PassedOver] = []

    def pass_over(path: Path, reason: str, message: str) -> None:
        passed_over.append(PassedOver(path, reason, f"{path}: {message}"))

    def unreadable(error: OSError) -> None:
        pass_over(Path(error.filename), "unreadable", f"cannot be listed ({error.strerror})")

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        here = Path(folder)
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and (here / n).resolve() not in skipped)
        if here.resolve() in skipped:
            continue
        for name in subfolders:
            if (here / name).is_symlink():
                pass_over(here / name, "linked-folder", "is a link to a folder, which is not followed: give the folder")
        slices = 0
        for name in sorted(name for name in files if not name.startswith(".")):
            path, lower = here / name, name.lower()
            if lower == DICOM_INDEX:
                continue
            try:
                if not stat.S_ISREG(path.stat().st_mode):
                    pass_over(path, "not-a-file", "is neither a regular file nor a folder")
                elif lower.endswith(SCAN_SUFFIXES):
                    scans.append(path)
                elif advice := _other_format(lower):
                    pass_over(path, "unsupported-format", f"this format is not read here: {advice}")
                elif not slices and (lower.endswith(DICOM_SUFFIXES) or is_dicom_file(path)):
                    slices += 1  # one is enough: the series' reader judges them all
            except OSError as error:
                pass_over(path, "unreadable", f"cannot be read ({error.strerror})")
        if slices:
            scans.append(here)
    return ScanFolder(tuple(sorted(scans)), tuple(sorted(passed_over, key=lambda one: one.path)))


def _other_format(name: str) -> str | None:
    return next((advice for advice, suffixes in OTHER_FORMATS.items() if name.endswith(suffixes)), None)
