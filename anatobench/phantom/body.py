"""A body as an ordered list of parts: later parts are painted over earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anatobench.phantom.shapes import Shape
from anatobench.tasks import Size, Spacing
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2

STRUCTURES = {name: label for label, name in TOTALSEGMENTATOR_V2.items()}
"""TotalSegmentator v2 labels by name."""
BOWEL = ("esophagus", "stomach", "duodenum", "small_bowel", "colon")
AIR = -1000.0


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
