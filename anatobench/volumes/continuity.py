"""Do a scan's slices go on from one to the next? Two scans that lie one after the other under one header do not: where
the second begins, the voxels change far more than from slice to slice elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

JUMP = 2.0
"""So many times the larger of the two steps beside it. Of real scans at 2 to 12 mm no step has more than 1.2, where one
begins anew hardly any less than 2.5."""
PLAIN_JUMP = 3.0
"""Where nothing but the voxels speaks of it."""
REPEATED = 0.5
"""Share of the jump by which the slices behind it may differ from the earlier ones that show the same anatomy."""
CHANGING = 0.35
"""Share of the jump that the slices behind it must change by: noise alone is a third of it at most (`PLAIN_JUMP`)."""
FEWEST_REPEATED = 3
POINTS = (32, 64)
"""Rows and columns that are looked at, about."""
BLANK_SHARE = 0.99
SEEN = (-1000, 400)
EMPTY_HU = -900


@dataclass(frozen=True)
class Jump:
    """Where the voxels of one slice do not go on from those of the slice before."""

    after: int
    """Index of the last slice before it."""
    times: float
    """How many times the larger of the two steps beside it."""
    repeats: bool
    """Whether the slices behind it show what earlier ones have shown."""


def jumps(voxels: np.ndarray) -> list[Jump]:
    """Jumps between the slices of int16 HU `voxels` [D, H, W]. Slices of air alone are none's beginning or end."""
    steps = [max(1, n // points) for n, points in zip(voxels.shape[1:], POINTS, strict=True)]
    seen = np.clip(voxels[:, :: steps[0], :: steps[1]], *SEEN).reshape(len(voxels), -1)  # int16 holds differences, too
    if len(seen) < 4:
        return []
    change = np.abs(np.diff(seen, axis=0)).mean(axis=1, dtype=np.float32)
    beside = np.maximum(change[:-2], change[2:])
    found = []
    for index in np.flatnonzero(change[1:-1] > JUMP * np.maximum(beside, 1)) + 1:
        if not _is_blank(seen[index]) and not _is_blank(seen[index + 1]):
            repeats = _repeats(seen[: index + 1], seen[index + 1 :], float(change[index]))
            found.append(Jump(int(index), float(change[index] / max(beside[index - 1], 1)), repeats))
    return found


def _is_blank(plane: np.ndarray) -> bool:
    return bool(np.mean(plane < EMPTY_HU) >= BLANK_SHARE)


def _repeats(before: np.ndarray, behind: np.ndarray, jump: float) -> bool:
    """Return whether the slices on the two sides of a jump show the same anatomy in the same order, from wherever the
    one that begins later in the body begins."""
    return any(_follows(one, other, jump) for one, other in ((before, behind), (behind, before)))


def _follows(longer: np.ndarray, other: np.ndarray, jump: float) -> bool:
    first = int(np.argmin(np.abs(longer - other[0]).mean(axis=1)))
    count = min(len(longer) - first, len(other))
    if count < FEWEST_REPEATED:
        return False
    shown, again = longer[first : first + count], other[:count]
    if _change(shown) < REPEATED * jump or _change(again) < CHANGING * jump:
        return False
    return bool(np.abs(shown - again).mean() < REPEATED * jump)


def _change(slices: np.ndarray) -> float:
    """Return how far the last is from the first: slices that are all alike prove nothing."""
    return float(np.abs(slices[-1] - slices[0]).mean())
