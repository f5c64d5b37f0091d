"""What is drawn at random in training: torch.nn.Dropout and torchvision.ops.StochasticDepth.

A key stands for the draws of one place in the model at one step; None means that nothing is drawn, as in evaluation.
The frameworks' draws differ, their distributions do not.
"""

from __future__ import annotations

import jax

Key = jax.Array
"""Of jax.random.key, a scalar."""


def dropout(x: jax.Array, rate: float, key: Key | None) -> jax.Array:
    """Zero every element of x, of any shape, with probability `rate` and divide the others by 1 - rate."""
    return _dropped(x, rate, key, x.shape)


def stochastic_depth(branch: jax.Array, rate: float, key: Key | None) -> jax.Array:
    """StochasticDepth(mode="row"): as dropout, but every sample [i, ...] lives or dies as a whole."""
    return _dropped(branch, rate, key, (branch.shape[0],) + (1,) * (branch.ndim - 1))


def key_at(key: Key | None, place: int) -> Key | None:
    """Return the key, a scalar, of one place in the model."""
    return None if key is None else jax.random.fold_in(key, place)


def _dropped(x: jax.Array, rate: float, key: Key | None, shape: tuple[int, ...]) -> jax.Array:
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return x * (kept / (1.0 - rate)).astype(x.dtype)
