"""Augmentation of training batches: small rotations, scale, noise and a shift of intensity, drawn on the host.

The paper names none, so it is off unless a recipe asks for it. What is drawn is a function of seed, step and place in
the global batch alone: both frameworks see the same bytes, whatever the number of processes and of threads that read
ahead, and after a resume. Of each case, in this order:

- an angle about each axis, uniform in +-`rotation` degrees; D, H, W in turn, about the crop's centre, in millimetres;
- a factor, uniform in 1 +- `scaling` %, above 1 enlarges;
- a shift, uniform in +-`shift` HU, the same for all voxels;
- noise of a standard deviation that is uniform in 0 to `noise` HU, normal, independent per voxel.

Volume and mask go through one and the same map, the volume trilinear, the mask nearest. What comes from outside the
stored scan is air without mask. Values are rounded and stay in the range that stores have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anatobench.recipes import Recipe
from anatobench.store.reader import Store
from anatobench.tasks import IGNORED_ORGAN, STORED_HU, Size, Spacing
from anatobench.volumes.volume import AIR_HU

CropReader = Callable[[Store, int, Size, tuple[np.ndarray, np.ndarray]], object]
"""Reads the crop of a case (its position in the store) that starts at a voxel into int16 and uint8 [d, h, w]."""
_STREAM = 0x617567
"""Keeps these draws apart from those of order and crops, which come of the same seed."""


@dataclass(frozen=True)
class Augmentation:
    """How far training cases are changed; see the module."""

    rotation: float
    """Degrees about each axis."""
    scaling: float
    """Percent."""
    noise: float
    """HU, the largest standard deviation."""
    shift: float
    """HU."""
    seed: int

    @staticmethod
    def of(recipe: Recipe) -> Augmentation | None:
        """Return None where cases are trained on as they are."""
        found = Augmentation(
            recipe.augment_rotation, recipe.augment_scaling, recipe.augment_noise, recipe.augment_shift, recipe.seed
        )
        return found if any((found.rotation, found.scaling, found.noise, found.shift)) else None

    def read_crop(
        self,
        read: CropReader,
        store: Store,
        index: int,
        start: Size,
        out: tuple[np.ndarray, np.ndarray],
        step: int,
        place: int,
    ) -> None:
        """Read a crop by `read` and change it as is drawn for this step and place of the global batch, both from 0.

        `out` is filled: int16 HU and uint8 organ indices, each [d, h, w].
        """
        rng = np.random.default_rng((self.seed, _STREAM, step, place))
        angles, factor, shift = rng.uniform(-1, 1, 3), rng.uniform(-1, 1), rng.uniform(-1, 1)
        deviation = self.noise * rng.uniform()
        volume = out[0]
        if self.rotation or self.scaling:
            matrix = voxel_map(
                np.radians(self.rotation * angles), 1 + factor * self.scaling / 100, store.geometry.spacing
            )
            _read_mapped(read, store, index, start, out, matrix)
        else:
            read(store, index, start, out)
        if self.shift or self.noise:
            values = volume + np.float32(self.shift * shift)
            if self.noise:
                values += np.float32(deviation) * rng.standard_normal(volume.shape, np.float32)
            volume[...] = np.clip(np.rint(values), *STORED_HU)


def voxel_map(radians: np.ndarray, factor: float, spacing: Spacing) -> np.ndarray:
    """float64 [3, 3]: from a voxel of the changed crop to that of the scan which it shows, both from the centre.

    radians [3] about D, H and W. A rotation in millimetres, so that it is one also where voxels are no cubes.
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(radians):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ turn
    return np.asarray(rotation * np.asarray(spacing) / np.asarray(spacing)[:, None] / factor)


def _read_mapped(
    read: CropReader, store: Store, index: int, start: Size, out: tuple[np.ndarray, np.ndarray], matrix: np.ndarray
) -> None:
    """Read the part of the scan that the changed crop shows, and resample it."""
    from scipy.ndimage import affine_transform

    shape = np.asarray(out[0].shape)
    centre = (shape - 1) / 2
    reach = np.abs(matrix) @ centre
    whole = np.asarray(store.geometry.padded_size)
    low = np.clip(np.floor(start + centre - reach).astype(int), 0, whole - 1)
    high = np.clip(np.ceil(start + centre + reach).astype(int) + 1, low + 1, whole)
    depth, height, width = (high - low).tolist()
    wide = np.empty((depth, height, width), np.int16), np.empty((depth, height, width), np.uint8)
    first, second, third = low.tolist()
    read(store, index, (first, second, third), wide)
    offset = start + centre - low - matrix @ centre
    changed = affine_transform(
        wide[0], matrix, offset, output=np.float32, output_shape=out[0].shape, order=1, cval=AIR_HU, prefilter=False
    )
    out[0][...] = np.rint(changed)
    affine_transform(wide[1], matrix, offset, output=out[1], order=0, cval=IGNORED_ORGAN, prefilter=False)
