"""RAD-ChestCT's scans: an `.npz` with the int16 array `ct`, already in HU, 0.8 mm isotropic.

The file carries no geometry. Its axes run superior to inferior, anterior to posterior and right to left (the data set's
own preprocessing code, rachellea/ct-volume-preprocessing), which is the canonical orientation already.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anatobench.volumes.limits import check_size
from anatobench.volumes.npz_array import read_npz_array
from anatobench.volumes.volume import Volume

ZIP_MAGIC = b"PK\x03\x04"
SPACING_MM = 0.8
AFFINE = np.diag([-SPACING_MM, -SPACING_MM, -SPACING_MM, 1.0])[[2, 1, 0, 3]]
"""(d, h, w) to RAS+: d points down, h backwards, w to the patient's left. The origin is arbitrary."""


def is_npz_file(path: Path) -> bool:
    """Return whether the file is a zip archive, as every `.npz` is."""
    with path.open("rb") as file:
        return file.read(4) == ZIP_MAGIC


def read_rad_chestct_npz(path: Path) -> Volume:
    """Read a RAD-ChestCT scan. Raises `CaseError` unless it holds a whole 3-D int16 array named `ct`."""
    voxels = read_npz_array(path, "ct", ("int16",), "RAD-ChestCT's array", check_size)
    return Volume(voxels, AFFINE.copy())
