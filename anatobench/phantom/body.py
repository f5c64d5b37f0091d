"""A body as an ordered list of parts, later ones painted over earlier ones, and where in it a finding goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from anatobench.phantom.shapes import Blob, Ripple, Shape, Vector
from anatobench.tasks import Size, Spacing
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2

STRUCTURES = {name: label for label, name in TOTALSEGMENTATOR_V2.items()}
"""TotalSegmentator v2 labels by name."""
BOWEL = ("esophagus", "stomach", "duodenum", "small_bowel", "colon")
AIR = -1000.0
MAP_SPACING = 5.0
MAP_SIZE = (60, 48, 64)
UNLABELLED_REACH = (75.0, 70.0)
"""Unlabelled tissue is used this far (mm, along x and y) from the middle, so that it is inside the body."""


@dataclass(frozen=True)
class Part:
    """One tissue in one place."""

    shape: Shape
    hu: float
    structure: str | None = ""
    """TotalSegmentator v2 name; empty for tissue without a label, which erases the label beneath; None keeps it."""


Body = tuple[Part, ...]
"""A patient, in air."""


@dataclass(frozen=True)
class Finding:
    """A local change of the image: an injury, a disease, or a distractor that looks the same elsewhere.

    `amount` is added to the HU where `absolute` is False, else it replaces them. With `hosts` the change stays inside
    these structures ("" is unlabelled tissue); without, it shows wherever the shape lies.
    """

    shape: Shape
    amount: float
    absolute: bool = False
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Canvas:
    """A scan in the making: axis-aligned, orientation IPL."""

    hu: np.ndarray
    """float32 [D, H, W]"""
    labels: np.ndarray
    """uint8 [D, H, W], `STRUCTURES`"""
    x: np.ndarray
    """float32 [W], descending (to the patient's left)"""
    y: np.ndarray
    """float32 [H], descending (to posterior)"""
    z: np.ndarray
    """float32 [D], descending (to inferior)"""
    spacing: Spacing

    @staticmethod
    def of(body: Body, size: Size, spacing: Spacing, centre: tuple[float, float, float]) -> Canvas:
        """Return a body without findings on a grid about one of its points (x, y, z)."""
        x, y, z = (
            (middle - (np.arange(count, dtype=np.float32) - (count - 1) / 2) * step).astype(np.float32)
            for middle, count, step in zip(centre, reversed(size), reversed(spacing), strict=True)
        )
        canvas = Canvas(np.full(size, AIR, dtype=np.float32), np.zeros(size, dtype=np.uint8), x, y, z, spacing)
        for part in body:
            canvas.paint(part)
        return canvas

    @property
    def softness(self) -> float:
        """Width of an edge in mm: how far a voxel averages over what it covers."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def cover(self, shape: Shape) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
        """Return the voxels in a shape's box, none where it lies outside the scan, and for these [d, h, w] (or what
        broadcasts to it) the shape's level in mm and how much of each voxel it covers, 0 to 1."""
        low, high = shape.box
        inside = [
            np.flatnonzero((axis >= lower) & (axis <= upper))
            for axis, lower, upper in zip((self.x, self.y, self.z), low, high, strict=True)
        ]
        x, y, z = (slice(found[0], found[-1] + 1) if len(found) else slice(0) for found in inside)
        level = shape.level((self.x[None, None, x], self.y[None, y, None], self.z[z, None, None]))
        return (z, y, x), level, np.clip(0.5 - level / np.float32(self.softness), 0, 1)

    def paint(self, part: Part) -> None:
        """Blend a part in by how much of each voxel it covers."""
        where, level, cover = self.cover(part.shape)
        hu = self.hu[where]
        hu += cover * (np.float32(part.hu) - hu)
        if part.structure is not None:
            self.labels[where][np.broadcast_to(level < 0, hu.shape)] = STRUCTURES.get(part.structure, 0)

    def apply(self, finding: Finding) -> None:
        """Change the image where a finding lies; labels stay as they are."""
        where, _, cover = self.cover(finding.shape)
        hu = self.hu[where]
        if finding.hosts:
            hosts = [STRUCTURES.get(name, 0) for name in finding.hosts]
            cover = cover * np.isin(self.labels[where], hosts)
        hu += cover * (np.float32(finding.amount) - hu if finding.absolute else np.float32(finding.amount))


def body_map(body: Body) -> Canvas:
    """Return a body's structures on a coarse grid of 300 mm height: what every scan of the body covers.

    Where findings go is decided on it, so that two series of a patient agree."""
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
