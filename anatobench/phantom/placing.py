"""Where in a body a finding goes: decided on a coarse map of its own, so that two series of a patient agree."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from anatobench.phantom.body import STRUCTURES, Body, Canvas
from anatobench.phantom.shapes import Blob, Ripple, Vector

MAP_SPACING = 5.0
MAP_SIZE = (60, 48, 64)
UNLABELLED_REACH = (75.0, 70.0)
"""Unlabelled tissue is used this far (mm, along x and y) from the middle, so that it is inside the body."""


def body_map(body: Body) -> Canvas:
    """Return a body's structures on a coarse grid of 300 mm height: what every scan of the body covers."""
    return Canvas.of(body, MAP_SIZE, (MAP_SPACING,) * 3, (0.0, 0.0, -5.0))


def place(rng: np.random.Generator, body: Canvas, hosts: tuple[str, ...], depth: float) -> np.ndarray:
    """Return a point, x, y, z [3], inside one of the structures ("" for unlabelled tissue) of a `body_map`: `depth` mm
    below the surface where the structure is that thick, else about as deep as it can be."""
    mask = np.isin(body.labels, [STRUCTURES.get(host, 0) for host in hosts])
    if "" in hosts:
        reach_x, reach_y = UNLABELLED_REACH
        mask &= (np.abs(body.x) < reach_x) & (np.abs(body.y)[:, None] < reach_y)
    if not mask.any():
        raise ValueError(f"no {' or '.join(hosts)} in this body")
    (box,) = find_objects(mask.astype(np.uint8))
    inside, start = mask[box], [extent.start for extent in box]
    room = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] * MAP_SPACING
    enough = min(depth, float(np.quantile(room[inside], 0.85)))
    choices = np.argwhere(inside & (room >= enough))
    d, h, w = choices[rng.integers(len(choices))] + start
    jitter = rng.uniform(-MAP_SPACING / 2, MAP_SPACING / 2, 3)
    return np.array([body.x[w], body.y[h], body.z[d]], dtype=np.float64) + jitter


def shaped_blob(rng: np.random.Generator, centre: Vector, radius: float) -> Blob:
    """Return an irregular ellipsoid of about that radius in mm about a point [3]."""
    radii = radius * rng.uniform(0.85, 1.2, 3)
    ripple = Ripple.draw(rng, 0.12 * radius, (1.2 * radius, 3.0 * radius))
    return Blob(centre, radii, ripple, turn=rng.uniform(0, np.pi))
