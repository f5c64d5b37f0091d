"""Where in a body a finding goes: decided on a coarse map of its own, so that two series of a patient agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from anatobench.phantom.body import STRUCTURES, Body, Canvas
from anatobench.phantom.shapes import Blob, Ripple, Vector

MAP_SPACING = 5.0
MAP_SIZE = (60, 48, 64)
UNLABELLED_REACH = (75.0, 70.0)
"""Unlabelled tissue is used this far (mm, along x and y) from the middle, so that it is inside the body."""


@dataclass(frozen=True)
class BodyMap:
    """Structures of a body on a coarse grid in world millimetres."""

    canvas: Canvas

    @staticmethod
    def of(body: Body, centre_z: float = -5.0) -> BodyMap:
        """Return a map 300 mm high about `centre_z`: what every scan of the body covers."""
        return BodyMap(Canvas.of(body, MAP_SIZE, (MAP_SPACING,) * 3, (0.0, 0.0, centre_z)))

    def place(self, rng: np.random.Generator, hosts: tuple[str, ...], depth: float) -> Vector:
        """Return a point inside one of the structures ("" for unlabelled tissue): `depth` mm below the surface where
        the structure is that thick, else about as deep as it can be."""
        mask = np.isin(self.canvas.labels, [STRUCTURES.get(host, 0) for host in hosts])
        if "" in hosts:
            reach_x, reach_y = UNLABELLED_REACH
            mask &= (np.abs(self.canvas.x) < reach_x) & (np.abs(self.canvas.y)[:, None] < reach_y)
        if not mask.any():
            raise ValueError(f"no {' or '.join(hosts)} in this body")
        (box,) = find_objects(mask.astype(np.uint8))
        inside, start = mask[box], [extent.start for extent in box]
        room = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] * MAP_SPACING
        enough = min(depth, float(np.quantile(room[inside], 0.85)))
        choices = np.argwhere(inside & (room >= enough))
        d, h, w = choices[rng.integers(len(choices))] + start
        jitter = rng.uniform(-MAP_SPACING / 2, MAP_SPACING / 2, 3)
        x, y, z = np.array([self.canvas.x[w], self.canvas.y[h], self.canvas.z[d]], dtype=np.float64) + jitter
        return float(x), float(y), float(z)


def shaped_blob(rng: np.random.Generator, centre: Vector, radius: float) -> Blob:
    """Return an irregular ellipsoid of about that radius."""
    rx, ry, rz = (float(v) for v in radius * rng.uniform(0.85, 1.2, 3))
    ripple = Ripple.draw(rng, 0.12 * radius, (1.2 * radius, 3.0 * radius))
    return Blob(centre, (rx, ry, rz), ripple, turn=float(rng.uniform(0, np.pi)))
