"""MONAI's PersistentDataset and CacheDataset with its DataLoader, on prepared scans stored as plain NIfTI.

Kinder than usual: caches are filled beforehand, voxels stay int16 and uint8, and MetaTensors are switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, PersistentDataset, set_track_meta
from monai.transforms import CenterSpatialCropd, Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd

from anatobench.tasks import Size

VERSION = f"monai {monai.__version__} with torch {torch.__version__}"
KEYS = ("volume", "organs")
Files = Sequence[tuple[Path, Path]]


def loaders(files: Files, crop: Size, batch_size: int, folder: Path, workers: int) -> dict[str, DataLoader]:
    """Loaders of random crops, their caches filled."""
    datasets = _datasets(files, RandSpatialCropd(KEYS, crop[::-1], random_size=False), folder)
    return {
        name: DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers)
        for name, dataset in datasets.items()
    }


def centre_crops(files: Files, crop: Size, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the first file's volume and organs, cropped at the centre, to compare."""
    datasets = _datasets(files[:1], CenterSpatialCropd(KEYS, crop[::-1]), folder)
    return {name: tuple(dataset[0][key][0].numpy().T for key in KEYS) for name, dataset in datasets.items()}


def _datasets(files: Files, crop: Any, folder: Path) -> dict[str, Any]:
    set_track_meta(False)
    torch.set_num_threads(1)
    items = [dict(zip(KEYS, map(str, pair), strict=True)) for pair in files]
    transform = Compose(
        [
            LoadImaged(KEYS, reader="NibabelReader", dtype=None, image_only=True),
            EnsureChannelFirstd(KEYS, channel_dim="no_channel"),
            crop,
        ]
    )
    persistent = PersistentDataset(items, transform, cache_dir=folder)
    for index in range(len(items)):
        persistent[index]
    cached = CacheDataset(items, transform, num_workers=1, progress=False)
    return {"monai PersistentDataset": persistent, "monai CacheDataset": cached}
