"""MedMNIST's 3D sets (Yang et al. 2023, doi:10.1038/s41597-022-01721-8): one `.npz` with all volumes of a set.

`train_images`, `val_images` and `test_images` are uint8 [N, D, H, W] of 28 or 64 voxels a side, grey values and no HU;
`train_labels` and so on are [N, 1]. Nothing says how the axes lie in the patient or, for most sets, how large a voxel
is, so a voxel counts as one millimetre and the axes as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.limits import check_size
from anatobench.volumes.npz_array import read_npz_array
from anatobench.volumes.volume import Volume

MAX_VOLUMES = 100_000
LABEL_TYPES = ("uint8", "int8", "int16", "uint16", "int32", "int64", "uint32", "uint64")
AFFINE = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
"""(d, h, w) to RAS+, should the axes be those of other scans here; nothing rests on it."""
WHAT = "MedMNIST's array"


def read_medmnist3d_labels(path: Path, part: str) -> np.ndarray:
    """int64 [N] of a part, `train`, `val` or `test`. Raises `CaseError` if the file is none of MedMNIST's 3D sets."""
    labels = read_npz_array(path, f"{part}_labels", LABEL_TYPES, WHAT, _check_labels)
    return labels.reshape(-1).astype(np.int64)


def read_medmnist3d_size(path: Path, part: str) -> tuple[int, tuple[int, int, int]]:
    """Return how many volumes a part has, and how many voxels each (D, H, W)."""
    count, depth, height, width = _images(path, part).shape
    return count, (depth, height, width)


def read_medmnist3d_volume(path: Path, member: str) -> Volume:
    """Read the volume `PART/INDEX`, grey values 0 to 255. Raises `CaseError` if there is no such one."""
    part, _, index = member.partition("/")
    images = _images(path, part)
    if not index.isdecimal() or int(index) >= len(images):
        raise CaseError("missing", f"{path}: has no volume {member}: {part} has {len(images)}")
    return Volume(images[int(index)].astype(np.int16), AFFINE.copy())


def _images(path: Path, part: str) -> np.ndarray:
    status = path.stat()
    return _read_images(path, part, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # the archive is compressed as a whole, and a worker takes one volume after the other
def _read_images(path: Path, part: str, changed: int, size: int) -> np.ndarray:
    return read_npz_array(path, f"{part}_images", ("uint8",), WHAT, _check_images)


def _check_images(path: Path, shape: Sequence[int]) -> None:
    if len(shape) != 4 or not 1 <= shape[0] <= MAX_VOLUMES:
        raise CaseError("bad-npz", f"{path}: images of shape {tuple(shape)}, not [N, D, H, W]: is it a 3D set?")
    check_size(path, shape[1:])
    check_size(path, (shape[0] * shape[1], *shape[2:]))


def _check_labels(path: Path, shape: Sequence[int]) -> None:
    if len(shape) not in (1, 2) or tuple(shape[1:]) not in ((), (1,)) or not 1 <= shape[0] <= MAX_VOLUMES:
        raise CaseError("bad-npz", f"{path}: labels of shape {tuple(shape)}, not [N, 1]: one label per volume is read")
