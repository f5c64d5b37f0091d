"""A scan or mask on disk, whatever its format, told by what it is rather than by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anatobench.datasets.case import HeaderOverride
from anatobench.errors import CaseError
from anatobench.volumes.dicom import is_dicom_file, read_dicom_series
from anatobench.volumes.nifti import read_nifti_affine, read_nifti_mask, read_nifti_volume
from anatobench.volumes.rad_chestct_npz import is_npz_file, read_rad_chestct_npz
from anatobench.volumes.volume import Mask, Volume


def read_volume(path: Path, header: HeaderOverride | None = None) -> Volume:
    """Read a scan: a folder holds a DICOM series, a file is RAD-ChestCT's NPZ or NIfTI.

    `header` replaces what a NIfTI file says about itself (CT-RATE's originals). Raises `CaseError` for bad input.
    """
    path = Path(path)
    if not path.exists():
        raise CaseError("missing", f"{path}: no such scan")
    if header is not None:
        return read_nifti_volume(path, header)
    if path.is_dir():
        return read_dicom_series(path)
    if is_npz_file(path):
        return read_rad_chestct_npz(path)
    if is_dicom_file(path):
        raise CaseError("single-dicom", f"{path}: one DICOM file is one slice: give the folder of the series")
    return read_nifti_volume(path)


def own_affine(path: Path) -> np.ndarray | None:
    """How the voxels of a NIfTI scan lie in its file (`read_nifti_affine`); None for formats that have no such axes,
    whose scans are written as they are read."""
    if path.is_dir() or is_npz_file(path):
        return None
    return read_nifti_affine(path)


def read_mask(path: Path) -> Mask:
    """Read an organ mask (NIfTI). Raises `CaseError` for bad input."""
    return read_nifti_mask(Path(path))
