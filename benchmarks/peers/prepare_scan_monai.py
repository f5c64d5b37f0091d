"""MONAI's usual preparation of a scan (LoadImage, Orientation, Spacing), in the form that was measured to be fastest.

That is: reader named, so that none is searched for; RAS, its transforms' most common orientation; float32 instead of
Spacing's default float64.
"""

from __future__ import annotations

import functools
from pathlib import Path

import monai
import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing

from anatobench.tasks import Spacing as Millimetres
from anatobench.volumes.orientation import to_canonical
from anatobench.volumes.volume import Grid

NAME = "monai"
VERSION = f"{monai.__version__} with torch {torch.__version__}"


def use_one_thread() -> None:
    torch.set_num_threads(1)


def prepare(scan: Path, mask: Path | None, spacing: Millimetres) -> tuple[np.ndarray, np.ndarray | None, Grid]:
    """Scan [D, H, W] in HU and mask (or None) in IPL orientation at `spacing`, and their grid.

    MONAI keeps the first voxel's centre in place, so its grid is shifted by a part of a voxel.
    """
    image = _transforms("bilinear", spacing)(scan)
    voxels, affine = to_canonical(image[0].numpy(), image.affine.numpy())
    d, h, w = voxels.shape
    if mask is None:
        return voxels, None, Grid((d, h, w), affine)
    labels = _transforms("nearest", spacing)(mask)
    return voxels, to_canonical(labels[0].numpy(), labels.affine.numpy())[0], Grid((d, h, w), affine)


@functools.cache
def _transforms(mode: str, spacing: Millimetres) -> Compose:
    return Compose(
        [
            LoadImage(image_only=True, reader="NibabelReader"),
            EnsureChannelFirst(),
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=spacing[::-1], mode=mode, dtype=np.float32),
        ]
    )
