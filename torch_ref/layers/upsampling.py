"""torch.nn.functional.interpolate(mode="trilinear", align_corners=False), as it is and by an axis at a time.

The operation is linear and separable: one small matrix per axis. PyTorch's own backward pass adds every voxel's share
by atomic operations instead, which took a fifth of a training step on an H100.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.tasks import Size


def upsample_trilinear(x: Tensor, size: Size) -> Tensor:
    """[B, C, d, h, w] to [B, C, *size]."""
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def interpolate_axis(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """x with `axis` of length n replaced by one of length m; matrix [m, n]."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if not after:
        return x @ matrix.T
    return (matrix @ x.flatten(axis + 1)).reshape(*before, len(matrix), *after)


def interpolation_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """[target, source] in the type and on the device of `like`: row i holds the weights of output voxel i.

    Voxel centres are at (i + 0.5) * source / target - 0.5, clamped to the first and last centre (PyTorch's
    `area_pixel_compute_source_index`); a source voxel weighs 1 minus its distance from there. Computed where it is
    used: a constant from the host would have to be copied, for which the host waits.
    """
    place = torch.arange(target, device=like.device, dtype=like.dtype)
    centre = ((place + 0.5) * (source / target) - 0.5).clamp(0.0, source - 1.0)
    voxel = torch.arange(source, device=like.device, dtype=like.dtype)
    return (1.0 - (centre[:, None] - voxel).abs()).clamp(min=0.0)
