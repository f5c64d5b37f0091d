"""Plain nibabel with torch's DataLoader: crops sliced from the file, from plain NIfTI (memory-mapped) or gzip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import nibabel
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from anatobench.tasks import Size

VERSION = f"nibabel {nibabel.__version__} with torch {torch.__version__}"
Files = Sequence[tuple[Path, Path]]
Pair = tuple[torch.Tensor, torch.Tensor]
"""int16 HU and uint8 organs, each [D, H, W]."""


class Crops(Dataset[Pair]):
    """Random crops, or centre crops, of pairs of files."""

    def __init__(self, files: Files, crop: Size, centre: bool = False) -> None:
        self._files, self._crop, self._centre = files, crop[::-1], centre

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pair:
        images = [cast(nibabel.Nifti1Image, nibabel.load(path)) for path in self._files[index]]  # by their names
        spare = [full - size for full, size in zip(images[0].shape, self._crop, strict=True)]
        start = [space // 2 if self._centre else int(torch.randint(space + 1, ())) for space in spare]
        place = tuple(slice(first, first + size) for first, size in zip(start, self._crop, strict=True))
        volume, organs = (np.ascontiguousarray(np.asarray(image.dataobj[place]).T) for image in images)
        return torch.from_numpy(volume), torch.from_numpy(organs)


def loader(files: Files, crop: Size, batch_size: int, workers: int) -> DataLoader[Pair]:
    """Return a loader of random crops."""
    torch.set_num_threads(1)
    return DataLoader(Crops(files, crop), batch_size=batch_size, shuffle=True, drop_last=True, num_workers=workers)


def centre_crops(files: Files, crop: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the first file's volume and organs, cropped at the centre, to compare."""
    volume, organs = Crops(files, crop, centre=True)[0]
    return volume.numpy(), organs.numpy()
