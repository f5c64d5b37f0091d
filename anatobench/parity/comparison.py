"""How far two sets of arrays are apart."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

INCOMPARABLE = sys.float_info.max
"""The error of arrays that are missing, of other shapes or not finite."""

FLOOR = 1e-4
"""A tensor's error is relative to its own largest value, but to no less than this part of the rung's largest value:
a gradient that is zero but for rounding is not asked to have the same rounding."""


@dataclass(frozen=True)
class Difference:
    """The largest relative error of a set of arrays, and where it is."""

    error: float
    worst: str


def largest_difference(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]) -> Difference:
    """Per array max|a - b| / max(max|b|, FLOOR * largest |b| of all arrays), b the reference; the worst of them.

    Arrays by name, of any shapes; what is missing or of another shape is `INCOMPARABLE`.
    """
    mismatched = sorted(reference.keys() ^ candidate.keys()) + sorted(
        name for name in reference.keys() & candidate.keys() if reference[name].shape != candidate[name].shape
    )
    if mismatched:
        return Difference(INCOMPARABLE, mismatched[0])
    magnitudes = {name: float(np.abs(array).max(initial=0)) for name, array in reference.items()}
    floor = FLOOR * max(magnitudes.values(), default=0.0)
    worst = Difference(0.0, "")
    for name, array in reference.items():
        distance = float(np.abs(candidate[name] - array).max(initial=0))
        scale = max(magnitudes[name], floor)
        if not np.isfinite(distance) or not np.isfinite(scale):
            return Difference(INCOMPARABLE, name)
        error = distance / scale if scale else float(distance > 0)
        if error >= worst.error:
            worst = Difference(error, name)
    return worst


def difference_of_norms(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]) -> Difference:
    """Return |a - b| / |b| in the Euclidean norm of all arrays, of any shapes, as one vector; `worst` is the array
    furthest off.

    In float32 a ReLU whose input is zero but for rounding lets a gradient pass in one program and not in the other,
    and a max-pooling picks another of two equal neighbours. Single elements then differ by what they are worth, the
    gradient as a whole hardly.
    """
    if largest_difference(reference, candidate).error == INCOMPARABLE:
        return Difference(INCOMPARABLE, "")
    squares = {name: float(np.square(np.float64(candidate[name]) - array).sum()) for name, array in reference.items()}
    norm = float(np.sqrt(sum(np.square(np.float64(array)).sum() for array in reference.values())))
    distance = float(np.sqrt(sum(squares.values())))
    return Difference(distance / norm if norm else float(distance > 0), max(squares, key=squares.__getitem__))


def exact_difference(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]) -> Difference:
    """0 if every array is the same to the last bit, in shape and type too, `INCOMPARABLE` otherwise."""
    if reference.keys() != candidate.keys():
        return Difference(INCOMPARABLE, min(reference.keys() ^ candidate.keys()))
    for name, array in reference.items():
        other = candidate[name]
        if array.dtype != other.dtype or array.shape != other.shape or array.tobytes() != other.tobytes():
            return Difference(INCOMPARABLE, name)
    return Difference(0.0, "")
