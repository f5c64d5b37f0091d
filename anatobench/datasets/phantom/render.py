"""A body and its findings as a CT scan: sampled, blurred, noisy, in whole HU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from anatobench.datasets.phantom.body import Body, Canvas, Finding
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
    grain: float = 0.7
    """Correlation of the noise in plane, voxels."""


HU_RANGE = (-1024, 3071)


def render(
    rng: np.random.Generator, body: Body, findings: tuple[Finding, ...], scanner: Scanner
) -> tuple[Volume, np.ndarray]:
    """The scan in HU and its structures: uint8 [D, H, W], TotalSegmentator v2 labels on the same grid."""
    canvas = Canvas.blank(scanner.size, scanner.spacing, scanner.centre, body.background)
    for part in body.parts:
        canvas.paint(part)
    for finding in findings:
        canvas.apply(finding)
    hu = gaussian_filter(canvas.hu, (0.0, 0.45, 0.45))
    hu += correlated_noise(rng, scanner)
    voxels = np.clip(np.rint(hu), *HU_RANGE).astype(np.int16)
    return Volume(voxels, _affine(canvas, scanner)), canvas.labels


def correlated_noise(rng: np.random.Generator, scanner: Scanner) -> np.ndarray:
    """float32 [D, H, W]: white noise through the reconstruction's blur, back at the wanted standard deviation."""
    white = rng.standard_normal(scanner.size, dtype=np.float32)
    soft = gaussian_filter(white, (0.3, scanner.grain, scanner.grain), mode="wrap")
    return np.asarray(soft * np.float32(scanner.noise / max(float(soft.std()), 1e-6)))


def _affine(canvas: Canvas, scanner: Scanner) -> np.ndarray:
    d, h, w = scanner.spacing
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -d, -h, -w, 1.0
    affine[:3, 3] = np.array([canvas.x[0], canvas.y[0], canvas.z[0]], dtype=np.float64) + scanner.isocentre
    return affine
