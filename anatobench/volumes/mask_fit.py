"""Does an organ mask fit its scan better when it is flipped? Then its voxels or its affine are flipped against it.

Structures differ in HU, so a mask that lies right tells much about the voxels: their mutual information is high. That
of the mask flipped or turned by 180 degrees is lower, also in a slab of a few slices, in which the organs' places
(label_evidence.py) tell nothing. Where the mask is the same flipped, there is no evidence.
"""

from __future__ import annotations

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.volume import Grid, Mask, Volume

POINTS = 1 << 16
"""About so many points of the mask, evenly spread, are looked at."""
MOST_SLICES = 40
HU_EDGES = (
    *(-950, -900, -800, -600, -300, -150, -110, -90, -70, -50, -30, -10, 10, 25, 40, 55, 70, 90),
    *(110, 140, 180, 250, 350, 500, 900),
)
"""Narrow where soft tissues differ."""
CLEARLY_BETTER, FEW_LABELS, CLEARLY_BETTER_OF_FEW = 0.3, 12, 0.4
"""Nats of mutual information per point whose label the flip changes. Of real masks with many labels the right one is
ahead by 0.3 to 1.5 in slabs of any thickness; of those with few organs, which hardly differ, by -0.35 at worst."""
FEWEST_CHANGED = 300
"""Points; fewer are chance."""
FLIPS = {flipped: name for flipped, name in (
    ((True, False, False), "turned upside down"),
    ((False, True, False), "with front and back exchanged"),
    ((False, False, True), "with left and right exchanged"),
    ((False, True, True), "turned by 180 degrees about the long axis"),
    ((True, False, True), "turned by 180 degrees about the axis from front to back"),
    ((True, True, False), "turned by 180 degrees about the axis from left to right"),
    ((True, True, True), "reversed along all axes"),
)}  # fmt: skip
"""By what is reversed of (d, h, w)."""


def check_not_flipped(mask: Mask, volume: Volume) -> None:
    """Raise `CaseError` (`mirrored-mask`) if the mask flipped along one or more axes fits the scan clearly better."""
    found = best_flip(mask, volume)
    if found is not None:
        raise CaseError("mirrored-mask", flip_message(found))


def flip_message(found: str) -> str:
    """Return what `best_flip` found, as a sentence."""
    return (
        f"{found}, its labels fit the scan's HU clearly better than as it lies: its voxels or its affine are flipped "
        "against the scan"
    )


def best_flip(mask: Mask, volume: Volume) -> str | None:
    """Return how the mask would have to be turned to fit the scan's HU clearly better; None if it lies as well as
    any."""
    indices = [_symmetric_indices(n, count) for n, count in zip(mask.grid.size, _counts(mask.grid.size), strict=True)]
    binned, inside = _binned_hounsfield(mask.grid, volume, indices)
    labels, count = _numbered(mask.labels[np.ix_(*indices)])
    lying = labels.reshape(-1)[inside]
    fit = _mutual_information(binned, lying, count)
    best, best_gain = None, CLEARLY_BETTER_OF_FEW if count < FEW_LABELS else CLEARLY_BETTER
    for flipped, name in FLIPS.items():
        other = np.flip(labels, tuple(axis for axis, turned in enumerate(flipped) if turned)).reshape(-1)[inside]
        changed = np.count_nonzero(other != lying)
        if changed < FEWEST_CHANGED:
            continue
        gain = (_mutual_information(binned, other, count) - fit) * lying.size / changed
        if gain > best_gain:
            best, best_gain = name, gain
    return best


def _counts(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return how many indices of each axis are looked at."""
    slices = min(size[0], MOST_SLICES)
    across = max(2, int((POINTS / slices) ** 0.5))
    return slices, min(size[1], across), min(size[2], across)


def _symmetric_indices(n: int, count: int) -> np.ndarray:
    """`count` of 0 .. n - 1, evenly spread and alike from both ends, so that the reversed axis has the same ones."""
    first = ((np.arange(count // 2) + 0.5) / count * n).astype(np.intp)
    middle = [n // 2] if count % 2 and n % 2 else []
    return np.concatenate([first, np.array(middle, dtype=np.intp), n - 1 - first[::-1]])


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the labels numbered 0, 1, ... as they occur, and how many there are."""
    present = np.zeros(int(labels.max(initial=0)) + 1, dtype=bool)
    present[labels] = True
    numbers = np.cumsum(present) - 1
    return numbers[labels], int(numbers[-1]) + 1


def _binned_hounsfield(grid: Grid, volume: Volume, indices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of HU at each of the lattice's points that lies in the scan, and which points do (bool,
    [points])."""
    mapping = np.linalg.solve(volume.grid.affine, grid.affine)
    d, h, w = np.ix_(*indices)
    places, inside = [], np.ones(tuple(len(index) for index in indices), dtype=bool)
    for row, n in zip(mapping[:3], volume.voxels.shape, strict=True):
        place = np.rint(row[0] * d + row[1] * h + row[2] * w + row[3]).clip(-1, n).astype(np.intp)
        inside &= (place >= 0) & (place < n)
        places.append(place)
    chosen = inside.reshape(-1)
    values = volume.voxels[tuple(place.reshape(-1)[chosen] for place in places)]
    return np.searchsorted(HU_EDGES, values), chosen


def _mutual_information(binned: np.ndarray, labels: np.ndarray, count: int) -> float:
    """In nats, of the HU's bins and `labels` 0 .. count - 1."""
    bins = len(HU_EDGES) + 1
    joint = np.bincount(labels * bins + binned, minlength=count * bins).reshape(count, bins) / max(len(labels), 1)
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    occurring = joint > 0
    return float((joint[occurring] * np.log(joint[occurring] / independent[occurring])).sum())
