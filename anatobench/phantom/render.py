"""A body and its findings as a CT scan: sampled, blurred, noisy, in whole HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from anatobench.phantom.body import Body, Canvas, Finding
from anatobench.tasks import Size, Spacing
from anatobench.volumes.volume import Volume


@dataclass(frozen=True)
class Scanner:
    """How one series was taken."""

    size: Size
    spacing: Spacing
    centre: tuple[float, float, float]
    """What lies in the middle of the field of view, in the body's mm."""
    isocentre: tuple[float, float, float]
    """RAS+ mm of the body's origin in the scanner."""
    noise: float
    """Standard deviation, HU."""

    @property
    def affine(self) -> np.ndarray:
        """float64 [4, 4]: voxel index (d, h, w, 1) to the scanner's RAS+ millimetres."""
        d, h, w = self.spacing
        affine = np.array([[0, 0, -w, 0], [0, -h, 0, 0], [-d, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
        middle = affine[:3, :3] @ ((np.array(self.size) - 1) / 2)
        affine[:3, 3] = np.array(self.centre) + self.isocentre - middle
        return affine


@dataclass(frozen=True)
class Settings:
    """Ranges (low, high) to draw a scan from."""

    covered: tuple[float, float]
    """z of the body that every scan shows, mm."""
    in_plane: tuple[float, float]
    """Voxels' sides, mm."""
    between: tuple[float, float]
    """Slices' distance, mm."""
    noise: tuple[float, float]
    spare_slices: int
    """Up to so many more than what is covered needs."""
    off_centre: float
    """How far the scan's middle may be from the body's along each axis, mm."""
    pixels: tuple[int, ...] = (256,)
    """Per row and column, one of these."""

    def draw(self, rng: np.random.Generator) -> Scanner:
        lowest, highest = self.covered
        pixels = int(rng.choice(self.pixels))
        in_plane, between, noise = (float(rng.uniform(*r)) for r in (self.in_plane, self.between, self.noise))
        slices = int(np.ceil((highest - lowest) / between)) + int(rng.integers(1, self.spare_slices + 1))
        x, y, z = (float(v) for v in rng.uniform(-self.off_centre, self.off_centre, 3))
        isocentre = (float(rng.uniform(-20, 20)), float(rng.uniform(-40, 40)), float(rng.uniform(-900, 200)))
        spacing = (round(between, 2), round(in_plane, 3), round(in_plane, 3))
        return Scanner((slices, pixels, pixels), spacing, (x, y, (highest + lowest) / 2 + z), isocentre, noise)


HU_RANGE = (-1024, 3071)
NOISE_CORRELATION = (0.3, 0.7, 0.7)
"""Voxels between and in the slices."""


def render(
    rng: np.random.Generator, body: Body, findings: tuple[Finding, ...], scanner: Scanner
) -> tuple[Volume, np.ndarray]:
    """Return the scan in HU and its structures: uint8 [D, H, W], TotalSegmentator v2 labels on the same grid."""
    canvas = Canvas.of(body, scanner.size, scanner.spacing, scanner.centre)
    for finding in findings:
        canvas.apply(finding)
    hu = gaussian_filter(canvas.hu, (0.0, 0.45, 0.45))
    white = rng.standard_normal(scanner.size, dtype=np.float32)
    noise = gaussian_filter(white, NOISE_CORRELATION, mode="wrap")  # the reconstruction's blur weakens it
    hu += noise * np.float32(scanner.noise / max(float(noise.std()), 1e-6))
    voxels = np.clip(np.rint(hu), *HU_RANGE).astype(np.int16)
    return Volume(voxels, scanner.affine), canvas.labels
