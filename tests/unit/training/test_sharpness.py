"""The largest eigenvalue by Lanczos' method, against matrices whose spectrum is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from anatobench.engine import Arrays
from anatobench.store.batch import Batch
from anatobench.training.sharpness import sharpness

SHAPES = {"a": (3, 4), "b": (28,)}
BATCH = Batch({"volume": np.zeros((1, 1, 1, 1), np.int16)}, case_index=np.zeros(1, np.int64))


class Quadratic:
    """An engine whose loss has a given Hessian."""

    def __init__(self, eigenvalues: np.ndarray) -> None:
        basis, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((40, 40)))
        self._hessian = basis @ np.diag(eigenvalues) @ basis.T
        self.products = 0

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return SHAPES

    def hessian_product(self, batch: Batch, direction: Mapping[str, np.ndarray]) -> Arrays:
        self.products += 1
        assert {name: array.shape for name, array in direction.items()} == SHAPES
        product = self._hessian @ np.concatenate([direction["a"].ravel(), direction["b"]])
        return {"b": product[12:], "a": product[:12].reshape(3, 4)}


def test_the_largest_is_found_even_where_a_negative_one_is_larger_by_magnitude() -> None:
    eigenvalues = np.concatenate([[-50.0, 7.0, 5.0], np.linspace(-1, 1, 37)])
    engine = Quadratic(eigenvalues)
    found = sharpness(engine, BATCH, iterations=40, tolerance=1e-12)
    assert found.largest_eigenvalue == pytest.approx(7.0, rel=1e-9)
    assert found.converged
    assert found.iterations == engine.products < 40


def test_what_was_not_reached_is_said() -> None:
    found = sharpness(Quadratic(np.linspace(0, 1, 40)), BATCH, iterations=3, tolerance=1e-9)
    assert (found.iterations, found.converged) == (3, False)
    assert 0 < found.largest_eigenvalue < 1


@pytest.mark.parametrize("curvature", [2.5, 0.0, -2.5])
def test_one_iteration_is_enough_where_all_directions_are_alike(curvature: float) -> None:
    found = sharpness(Quadratic(np.full(40, curvature)), BATCH)
    assert found.largest_eigenvalue == pytest.approx(curvature)
    assert found.iterations == 1
