"""Sharpness: the largest eigenvalue of the loss's Hessian in the parameters, by Lanczos' method.

The paper argues from its Figure 3 that supervision leads to flatter minima; this is the number behind the word. An
engine gives products of the Hessian with a direction; everything else is here, once for both frameworks, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import eigh_tridiagonal

from anatobench.engine import Arrays
from anatobench.store.batch import Batch

ITERATIONS = 30
"""Products of the Hessian at most; each costs about two backward passes."""
TOLERANCE = 1e-4
"""Relative change of the eigenvalue between two iterations at which it is taken for found."""
SEED = 0
"""Of the direction to begin with, so that both frameworks begin with the same."""


@dataclass(frozen=True)
class Sharpness:
    """What was found."""

    largest_eigenvalue: float
    """Of the Hessian of the batch's mean loss, weight decay left out; the largest, not the largest by magnitude."""
    iterations: int
    converged: bool


class Curved(Protocol):
    """What is asked of an engine: its parameters' shapes and products with the Hessian of its loss."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        """See `anatobench.engine.Probe.hessian_product`."""


def sharpness(
    engine: Curved, batch: Batch, iterations: int = ITERATIONS, tolerance: float = TOLERANCE, seed: int = SEED
) -> Sharpness:
    """Measure the engine's present weights on a batch, in training mode with what step 0 draws; nothing is changed.

    Lanczos' three-term recurrence without re-orthogonalisation: it keeps three vectors of the model's size, and what
    it loses is the multiplicity of eigenvalues, not the largest (Paige 1976).
    """
    shapes = engine.parameter_shapes()
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(sum(int(np.prod(shape)) for shape in shapes.values()))
    vector /= np.linalg.norm(vector)
    previous, beta = np.zeros_like(vector), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    found = np.nan
    for iteration in range(1, min(iterations, vector.size) + 1):
        product = _flat(engine.hessian_product(batch, _shaped(vector, shapes)), shapes) - beta * previous
        alpha = float(product @ vector)
        product -= alpha * vector
        diagonal.append(alpha)
        before, found = found, _largest(diagonal, beside)
        beta = float(np.linalg.norm(product))
        if abs(found - before) <= tolerance * abs(found) or beta <= 1e-12 * max(abs(found), 1e-300):
            return Sharpness(found, iteration, converged=True)
        beside.append(beta)
        previous, vector = vector, product / beta
    return Sharpness(found, len(diagonal), converged=False)


def _largest(diagonal: list[float], beside: list[float]) -> float:
    last = len(diagonal) - 1
    (value,) = eigh_tridiagonal(diagonal, beside, eigvals_only=True, select="i", select_range=(last, last))
    return float(value)


def _shaped(vector: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Return the vector's parts under the parameters' names."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _flat(arrays: Arrays, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in shapes]).astype(np.float64)
