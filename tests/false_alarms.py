"""How often true scans and masks are refused, and how often false ones pass: the tables of docs/input.md.

    python -m tests.false_alarms [--seed N] [--only units] SCAN[,MASK] [SCAN[,MASK] ...]

Crops of seeds below 20 were looked at when thresholds were chosen, those of the default never.

Each scan (a file or a folder of one DICOM series) is judged whole, in random crops, clipped as data sets clip, with
metal, and as lungs alone; and then with its values changed in every way in which they may be no HU. Of its slices and
crops it is asked whether they go on, and of two parts put together whether that is seen. Each mask is judged in slabs
and boxes, as it lies and flipped in every way, with all of its labels and with those of one task alone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from anatobench.tasks import ABDOMEN_ORGANS, CHEST_ORGANS
from anatobench.volumes.continuity import jumps
from anatobench.volumes.hounsfield import why_not_hounsfield
from anatobench.volumes.mask_fit import FLIPS, best_flip
from anatobench.volumes.organs import STRUCTURES, label_structures
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.volume import Mask, Volume

CROPS = 400
UNSEEN = 20
"""Seed of crops; those below were looked at when the thresholds were chosen."""


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
    stored: np.ndarray = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return stored


def windowed(voxels: np.ndarray, low: float, high: float, top: float) -> np.ndarray:
    return int16(np.clip((voxels.astype(float) - low) / (high - low), 0, 1) * top)


def with_corner(voxels: np.ndarray, ends: tuple[int, ...]) -> np.ndarray:
    filled = voxels.copy()
    filled[:: ends[0], :: ends[1], :: ends[2]][:4, :12, :12] = 0
    return filled


Kinds = dict[str, Callable[[np.ndarray, int], list[np.ndarray]]]
TRUE: Kinds = {
    "whole": lambda v, seed: [v],
    "crops, sides at least half": lambda v, seed: crops(v, 0.5, seed),
    "crops, sides at least a tenth": lambda v, seed: crops(v, 0.1, seed + 1),
    "clipped to -1000..1000": lambda v, seed: [np.clip(v, -1000, 1000)],
    "clipped to -1000..200": lambda v, seed: [np.clip(v, -1000, 200)],
    "5 % metal": lambda v, seed: [np.where(np.random.default_rng(seed).random(v.shape) < 0.05, 3071, v)],
    "lungs alone": lambda v, seed: [np.where(v < -300, v, -1000)],
}
FALSE: Kinds = {
    "+ 1024": lambda v, seed: [int16(v + 1024.0)],
    "+ 1000": lambda v, seed: [int16(v + 1000.0)],
    "- 1024": lambda v, seed: [int16(v - 1024.0)],
    "- 8192": lambda v, seed: [int16(v - 8192.0)],
    "+ 32768, saturated": lambda v, seed: [int16(v + 32768.0)],
    "12 bits wrapped": lambda v, seed: [(np.clip(v, -1024, 3071) & 0x0FFF).astype(np.int16)],
    "- 300; - 200; + 200; + 300": lambda v, seed: [int16(v + float(by)) for by in (-300, -200, 200, 300)],
    "the same four, sides at least half": lambda v, seed: [
        int16(c + float(by)) for by in (-300, -200, 200, 300) for c in crops(v, 0.5, seed + 2)[:100]
    ],
    "windows stretched to -1000..1000": lambda v, seed: [
        int16(windowed(v, low, high, top) * (2000.0 / top) - 1000)
        for low, high in ((-160, 240), (-1000, 400), (-100, 300))
        for top in (255, high - low)
    ],
    "a corner filled with 0": lambda v, seed: [with_corner(v, ends) for ends in product((1, -1), repeat=3)],
    "0..1": lambda v, seed: [windowed(v, -160, 240, 1)],
    "0..255": lambda v, seed: [windowed(v, -160, 240, 255)],
    "cut to -160..240": lambda v, seed: [np.clip(v, -160, 240)],
    "x 10": lambda v, seed: [int16(v * 10.0)],
    "/ 10": lambda v, seed: [int16(v / 10.0)],
    "x 0.5; (x + 1024) / 2 - 1024": lambda v, seed: [int16(v * 0.5), int16((v + 1024.0) / 2 - 1024)],
    "+ 600; - 600": lambda v, seed: [int16(v + 600.0), int16(v - 600.0)],
    "0..255 of -160..240 with an intercept of -1024": lambda v, seed: [windowed(v, -160, 240, 255) - 1024],
    "-500..1300 stretched to -1024..1023": lambda v, seed: [windowed(v, -500, 1300, 2047) - 1024],
    "-1350..150 or -1000..1000 shrunk to -1024..-769": lambda v, seed: [
        windowed(v, low, high, 255) - 1024 for low, high in ((-1350, 150), (-1000, 1000))
    ],
    "negated": lambda v, seed: [int16(-v.astype(float))],
    "standard scores x 100": lambda v, seed: [int16((v - v.mean()) / v.std() * 100)],
    "+ 1024, crops, sides at least half": lambda v, seed: crops(int16(v + 1024.0), 0.5, seed),
    "0..255, crops, sides at least half": lambda v, seed: crops(windowed(v, -160, 240, 255), 0.5, seed),
}


def show_units(scans: list[np.ndarray], seed: int) -> None:
    """Rows on `why_not_hounsfield`: judged, refused."""
    for title, kinds in (("true", TRUE), ("false", FALSE)):
        for name, make in kinds.items():
            counts = Counter(
                why_not_hounsfield(v.astype(np.int16)) is not None for scan in scans for v in make(scan, seed)
            )
            print(f"| {title} | {name} | {counts.total()} | {counts[True]} |", flush=True)


def second_phases(voxels: np.ndarray, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Return a part of a scan and behind it another part, enhanced and with other noise; and the index of the last
    slice."""
    rng = np.random.default_rng(seed)
    found: list[tuple[np.ndarray, int]] = []
    n = len(voxels)
    while len(found) < 40:
        (first, end), (again, last) = (np.sort(rng.choice(n + 1, 2, replace=False)) for _ in range(2))
        if min(end - first, last - again) < 6 or abs(int(end) - int(again)) < max(3, n // 10):
            continue
        other = voxels[again:last].astype(float)
        other = np.where((other > 0) & (other < 300), other + 60, other) + rng.normal(0, 15, other.shape)
        found.append((np.concatenate([voxels[first:end], int16(other)]), int(end - first) - 1))
    return found


def show_jumps(scans: list[np.ndarray]) -> None:
    """Rows on `continuity.jumps`: judged, with a jump, refused for anatomy that comes twice."""
    one = [voxels[::step] for voxels in scans for step in (1, 2, 3, 4)]
    for name, parts in (
        ("whole, and every 2nd, 3rd, 4th slice", one),
        *((f"crops, sides at least {least}", [c for v in scans for c in crops(v, least, 0)]) for least in (0.5, 0.1)),
    ):
        found = [jumps(part) for part in parts]
        repeating = sum(any(jump.repeats for jump in one) for one in found)
        print(f"| one scan | {name} | {len(found)} | {sum(map(bool, found))} | {repeating} |")
    pairs = [(jumps(both), last) for voxels in scans for both, last in second_phases(voxels)]
    hits = [[jump for jump in found if jump.after == last] for found, last in pairs]
    repeating = sum(any(jump.repeats for jump in hit) for hit in hits)
    print(f"| two phases | one behind the other | {len(hits)} | {sum(map(bool, hits))} | {repeating} |")


def parts_of(size: tuple[int, ...], thick: int, boxes: bool, rng: np.random.Generator) -> list[tuple[slice, ...]]:
    found = []
    for first in np.unique(np.linspace(0, size[0] - thick, 25).astype(int)):
        part = [slice(first, first + thick)]
        for n in size[1:]:
            width = int(rng.integers(n // 3, n + 1)) if boxes else n
            start = int(rng.integers(0, n - width + 1))
            part.append(slice(start, start + width))
        found.append(tuple(part))
    return found


def show_masks(pairs: list[tuple[Volume, Mask]]) -> None:
    """Rows on `mask_fit.best_flip`: judged as they lie, refused; then turned in each way, refused of how many."""
    known = set(CHEST_ORGANS) | set(ABDOMEN_ORGANS) | {name for union in STRUCTURES.values() for name in union}
    for thick in (1, 2, 3, 4, 6, 8, 12, 20, 40):
        for few in (False, True):
            judged, right, turned = 0, 0, {flipped: [0, 0] for flipped in FLIPS}
            for volume, mask in pairs:
                names = label_structures(mask, "totalsegmentator_v2")
                kept = [label for label, name in names.items() if not few or name in known]
                labels = np.where(np.isin(mask.labels, kept), mask.labels, 0)
                rng = np.random.default_rng(thick)
                for part in [
                    p for boxes in (False, True) for p in parts_of(labels.shape, min(thick, len(labels)), boxes, rng)
                ]:
                    scan, lying = Volume(volume.voxels[part], volume.affine), labels[part]
                    if not lying.any():
                        continue
                    judged += 1
                    right += best_flip(Mask(lying, volume.affine), scan) is not None
                    for flipped, counts in turned.items():
                        if thick > 1 or not flipped[0]:
                            other = Mask(np.flip(lying, tuple(np.flatnonzero(flipped).tolist())), volume.affine)
                            counts[0] += best_flip(other, scan) is not None
                            counts[1] += 1
            shares = " | ".join(f"{100 * a / b:.0f} %" if b else "" for a, b in turned.values())
            print(f"| {thick} | {'organs alone' if few else 'all labels'} | {judged} | {right} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", metavar="SCAN[,MASK]")
    parser.add_argument("--seed", type=int, default=UNSEEN, help="of the crops (default %(default)s)")
    parser.add_argument("--only", choices=("units",), help="leave out jumps and masks")
    args = parser.parse_args()
    pairs = [path.partition(",")[::2] for path in args.scans]
    volumes = [read_volume(Path(scan), rescale="hu") for scan, _ in pairs]
    scans = [volume.voxels for volume in volumes]
    show_units(scans, args.seed)
    if args.only is None:
        show_jumps(scans)
        show_masks([(volume, read_mask(Path(mask))) for volume, (_, mask) in zip(volumes, pairs, strict=True) if mask])


if __name__ == "__main__":
    main()
