"""The scans of any folder, and what looks like one but cannot be taken: nothing is left out without a word."""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anatobench.volumes.byte_stream import GZIP_MAGIC
from anatobench.volumes.dicom_tags import is_dicom_file

SCAN_SUFFIXES = (".nii.gz", ".nii", ".npz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NIFTI_2_BYTES = 540
DICOM_INDEX = "dicomdir"
"""Names the files of a medium, and is a DICOM file without an image."""
OTHER_FORMATS = {
    "convert it to NIfTI": (
        *(".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh", ".mnc", ".img", ".img.gz", ".hdr", ".gipl", ".npy"),
        *(".h5", ".hdf5", ".tif", ".tiff", ".vti", ".vtk", ".mat", ".raw", ".mha.gz", ".nrrd.gz", ".raw.gz"),
    ),
    "copy it again": (".nii.gz.part", ".nii.gz.tmp", ".nii.gz.crdownload", ".nii.gz.incomplete"),
    "unpack it": (
        *(".nii.bz2", ".nii.xz", ".nii.zst", ".nii.lz4", ".nii.zip"),
        *(".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".dcm.gz", ".dcm.bz2", ".dcm.xz"),
    ),
}
ABOUT_A_SCAN = re.compile(r"\.(nii|npz|dcm|mha|mhd|nrrd)(\.gz)?(~|[._-].*)$")
"""Names of copies, such as `a.nii.gz.bak` and `a.nii.gz~`."""
SIDECARS = (".json", ".txt", ".csv", ".xml", ".log", ".yaml", ".yml", ".md5", ".sha1", ".sha256", ".sha512", ".html")


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
                elif _is_copy(lower) and not is_dicom_file(path):
                    pass_over(path, "unsupported-name", "its name is not that of a scan: rename it, or remove the copy")
                elif not slices and _holds_nifti(path):
                    pass_over(path, "unsupported-name", "holds NIfTI under another name: rename it to .nii or .nii.gz")
            except OSError as error:
                pass_over(path, "unreadable", f"cannot be read ({error.strerror})")
        if slices:
            scans.append(here)
    return ScanFolder(tuple(sorted(scans)), tuple(sorted(passed_over, key=lambda one: one.path)))


def _is_copy(name: str) -> bool:
    return ABOUT_A_SCAN.search(name) is not None and not name.endswith(SIDECARS)


def _holds_nifti(path: Path) -> bool:
    """Return whether a file begins as NIfTI does, compressed or not."""
    with path.open("rb") as file:
        head = file.read(NIFTI_2_BYTES)
    if head.startswith(GZIP_MAGIC):
        with suppress(zlib.error):
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, NIFTI_2_BYTES)
    return head[344:347] == b"n+1" or head[4:7] == b"n+2"


def _other_format(name: str) -> str | None:
    return next((advice for advice, suffixes in OTHER_FORMATS.items() if name.endswith(suffixes)), None)
