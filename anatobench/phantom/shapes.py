"""Smooth solids in world millimetres (RAS+: x to the patient's right, y to anterior, z to superior).

A shape's `level` is roughly the signed distance to its surface in mm, negative inside. Coordinates come as three
arrays that broadcast against each other: open axes of a grid, or the same number of points each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""float32 x, y, z in mm, of shapes that broadcast: [1, 1, W], [1, H, 1] and [D, 1, 1] of a grid, or each [points]."""
Vector = tuple[float, float, float] | np.ndarray
"""x, y, z in mm; an array is [3]."""


class Shape(ABC):
    """A solid with a bounding box, which reaches to infinity where a kind of shape has none of its own."""

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner, each [3], x, y, z in mm."""
        return np.full(3, -np.inf), np.full(3, np.inf)

    @abstractmethod
    def level(self, points: Points) -> np.ndarray:
        """About the signed distance to the surface in mm, negative inside: float32 of a shape that broadcasts to that
        of the points together, [D, H, W] for a grid."""


@dataclass(frozen=True)
class Ripple(Shape):
    """A slow random wave over space, which turns an ellipsoid into an organ. Where it is below zero is a shape, too:
    about half of space, in patches as large as half the wavelength."""

    waves: np.ndarray
    """[n, 3], radians per mm."""
    phases: np.ndarray
    """[n]"""
    amplitude: float
    """mm, of the sum."""

    @staticmethod
    def draw(rng: np.random.Generator, amplitude: float, wavelength: tuple[float, float], count: int = 3) -> Ripple:
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(*wavelength, size=(count, 1))
        return Ripple(directions * (2 * np.pi / lengths), rng.uniform(0, 2 * np.pi, count), amplitude)

    def level(self, points: Points) -> np.ndarray:
        x, y, z = points
        total = np.float32(0)
        for (kx, ky, kz), phase in zip(self.waves.astype(np.float32), self.phases.astype(np.float32), strict=True):
            total = total + np.sin(kx * x + ky * y + kz * z + phase)
        return np.asarray(total * np.float32(self.amplitude / len(self.phases) ** 0.5), dtype=np.float32)


@dataclass(frozen=True)
class Blob(Shape):
    """A rippled superquadric: exponent 2 is an ellipsoid, more is boxier."""

    centre: Vector
    radii: Vector
    ripple: Ripple | None = None
    exponent: float = 2.0
    turn: float = 0.0
    """Radians about the z axis."""
    tilt: float = 0.0
    """Radians about the y axis: leans the z axis towards x."""

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        margin = 6.0 + (2 * self.ripple.amplitude if self.ripple else 0.0)
        radii = np.array(self.radii)
        if self.turn or self.tilt:
            radii = np.full(3, radii.max())
        return np.array(self.centre) - radii - margin, np.array(self.centre) + radii + margin

    def level(self, points: Points) -> np.ndarray:
        x, y, z = (p - np.float32(c) for p, c in zip(points, self.centre, strict=True))
        if self.turn:
            cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            x, y = cos * x + sin * y, cos * y - sin * x
        if self.tilt:
            cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
            x, z = cos * x + sin * z, cos * z - sin * x
        a, b, c = (np.abs(p / np.float32(r)) for p, r in zip((x, y, z), self.radii, strict=True))
        power = np.float32(self.exponent)
        radius = np.sqrt(a**2 + b**2 + c**2) if power == 2 else (a**power + b**power + c**power) ** (1 / power)
        level = np.asarray((radius - 1) * np.float32(min(self.radii)))
        return level if self.ripple is None else level + self.ripple.level(points)


@dataclass(frozen=True)
class Trunk(Shape):
    """An endless column with a superelliptic cross-section, such as the body's outline."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    exponent: float = 2.3
    swell: float = 0.0
    """Relative change of the radii per mm of z."""
    z_range: tuple[float, float] = (-np.inf, np.inf)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        reach = 1.35 * np.array(self.radii) + 6
        low, high = self.centre - reach, self.centre + reach
        return np.append(low, self.z_range[0] - 6), np.append(high, self.z_range[1] + 6)

    def level(self, points: Points) -> np.ndarray:
        x, y, z = points
        power = np.float32(self.exponent)
        across = np.abs((x - np.float32(self.centre[0])) / np.float32(self.radii[0])) ** power
        along = np.abs((y - np.float32(self.centre[1])) / np.float32(self.radii[1])) ** power
        radius = (across + along) ** (1 / power) / (1 + np.float32(self.swell) * z)
        low, high = np.array(self.z_range, dtype=np.float32)
        level: np.ndarray = np.maximum((radius - 1) * np.float32(min(self.radii)), np.maximum(low - z, z - high))
        return level


@dataclass(frozen=True)
class Tube(Shape):
    """A line of points with a thickness: vessels, airways, bowel."""

    line: np.ndarray
    """[n, 3] mm."""
    radii: np.ndarray
    """[n] mm at each point."""

    @staticmethod
    def of(points: ArrayLike, radius: ArrayLike) -> Tube:
        line = np.asarray(points, dtype=np.float64)
        return Tube(line, np.full(len(line), radius, dtype=np.float64))

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        margin = self.radii.max() + 6
        return self.line.min(axis=0) - margin, self.line.max(axis=0) + margin

    def segments(self) -> list[Tube]:
        """Return one piece per pair of points, each with a small box of its own."""
        return [Tube(self.line[i : i + 2], self.radii[i : i + 2]) for i in range(len(self.line) - 1)]

    def level(self, points: Points) -> np.ndarray:
        x, y, z = points
        nearest = np.full((), np.inf, dtype=np.float32)
        for start, end, r0, r1 in zip(self.line, self.line[1:], self.radii, self.radii[1:], strict=False):
            ax, ay, az = (end - start).astype(np.float32)
            px, py, pz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
            length = np.float32(max(ax * ax + ay * ay + az * az, 1e-6))
            t = np.clip((px * ax + py * ay + pz * az) / length, 0, 1)
            distance = np.sqrt((px - t * ax) ** 2 + (py - t * ay) ** 2 + (pz - t * az) ** 2)
            nearest = np.minimum(nearest, distance - (np.float32(r0) + t * np.float32(r1 - r0)))
        return nearest


@dataclass(frozen=True)
class Cut(Shape):
    """What of `shape` lies inside every one of `within` and outside every one of `without`."""

    shape: Shape
    within: tuple[Shape, ...] = ()
    without: tuple[Shape, ...] = ()

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.shape.box
        for other in self.within:
            other_low, other_high = other.box
            low, high = np.maximum(low, other_low), np.minimum(high, other_high)
        return low, high

    def level(self, points: Points) -> np.ndarray:
        level = self.shape.level(points)
        for other in self.within:
            level = np.maximum(level, other.level(points))
        for other in self.without:
            level = np.maximum(level, -other.level(points))
        return level


@dataclass(frozen=True)
class Below(Shape):
    """The half space where normal . point < offset."""

    normal: Vector
    offset: float

    def level(self, points: Points) -> np.ndarray:
        x, y, z = points
        a, b, c = (np.float32(v) for v in self.normal)
        return a * x + b * y + c * z - np.float32(self.offset)


@dataclass(frozen=True)
class Grown(Shape):
    """A shape whose surface is moved outwards by some mm (inwards if negative)."""

    shape: Shape
    by: float

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.shape.box
        return low - max(self.by, 0), high + max(self.by, 0)

    def level(self, points: Points) -> np.ndarray:
        return self.shape.level(points) - np.float32(self.by)


@dataclass(frozen=True)
class Bars(Shape):
    """Slanted parallel bars, periodic in z: the ribs, once cut out of a shell of the chest wall."""

    period: float
    thickness: float
    slant: float
    """How many mm of z a bar descends per mm towards anterior."""

    def level(self, points: Points) -> np.ndarray:
        _, y, z = points
        phase = (z + np.float32(self.slant) * y) / np.float32(self.period)
        distance: np.ndarray = np.abs(phase - np.round(phase)) * np.float32(self.period)
        return distance - np.float32(self.thickness / 2)
