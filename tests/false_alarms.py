"""How often true scans are refused as no HU, and how often false ones pass: the table of docs/input.md.

    python -m tests.false_alarms SCAN [SCAN ...]

Each scan (a file or a folder of one DICOM series) is judged whole, in random crops, clipped as data sets clip, with
metal, and as lungs alone; and then with its values changed in every way in which they may be no HU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anatobench.volumes.hounsfield import why_not_hounsfield
from anatobench.volumes.read import read_volume

CROPS = 400


def crops(voxels: np.ndarray, least: float, seed: int) -> list[np.ndarray]:
    """Random crops whose sides are at least that share of the scan's."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(CROPS):
        size = [int(rng.integers(max(2, int(n * least)), n + 1)) for n in voxels.shape]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(voxels.shape, size, strict=True)]
        found.append(voxels[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))])
    return found


def int16(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def windowed(voxels: np.ndarray, low: float, high: float, top: float) -> np.ndarray:
    return int16(np.clip((voxels.astype(float) - low) / (high - low), 0, 1) * top)


TRUE: dict[str, Callable[[np.ndarray], list[np.ndarray]]] = {
    "whole": lambda v: [v],
    "crops, sides at least half": lambda v: crops(v, 0.5, 0),
    "crops, sides at least a tenth": lambda v: crops(v, 0.1, 1),
    "clipped to -1000..1000": lambda v: [np.clip(v, -1000, 1000)],
    "clipped to -1000..200": lambda v: [np.clip(v, -1000, 200)],
    "5 % metal": lambda v: [np.where(np.random.default_rng(0).random(v.shape) < 0.05, 3071, v)],
    "lungs alone": lambda v: [np.where(v < -300, v, -1000)],
}
FALSE: dict[str, Callable[[np.ndarray], list[np.ndarray]]] = {
    "+ 1024": lambda v: [int16(v + 1024.0)],
    "+ 1000": lambda v: [int16(v + 1000.0)],
    "- 1024": lambda v: [int16(v - 1024.0)],
    "- 8192": lambda v: [int16(v - 8192.0)],
    "+ 32768, saturated": lambda v: [int16(v + 32768.0)],
    "12 bits wrapped": lambda v: [(np.clip(v, -1024, 3071) & 0x0FFF).astype(np.int16)],
    "0..1": lambda v: [windowed(v, -160, 240, 1)],
    "0..255": lambda v: [windowed(v, -160, 240, 255)],
    "cut to -160..240": lambda v: [np.clip(v, -160, 240)],
    "x 10": lambda v: [int16(v * 10.0)],
    "/ 10": lambda v: [int16(v / 10.0)],
    "negated": lambda v: [int16(-v.astype(float))],
    "standard scores x 100": lambda v: [int16((v - v.mean()) / v.std() * 100)],
    "+ 1024, crops, sides at least half": lambda v: crops(int16(v + 1024.0), 0.5, 0),
    "0..255, crops, sides at least half": lambda v: crops(windowed(v, -160, 240, 255), 0.5, 0),
}


def main(paths: list[str]) -> None:
    scans = [read_volume(Path(path), rescale="hu").voxels for path in paths]
    for title, kinds in (("true", TRUE), ("false", FALSE)):
        for name, make in kinds.items():
            counts = Counter(why_not_hounsfield(v.astype(np.int16)) is not None for scan in scans for v in make(scan))
            print(f"| {title} | {name} | {counts.total()} | {counts[True]} |")


if __name__ == "__main__":
    main(sys.argv[1:])
