"""int16 HU as they travel to the device -> what the model sees."""

from __future__ import annotations

import jax
from jax.typing import DTypeLike


def normalise(volume: jax.Array, window: tuple[float, float], dtype: DTypeLike) -> jax.Array:
    """Clip HU to `window` and map it to [-1, 1]: int16 [B, D, H, W] to `dtype` [B, D, H, W, 1]."""
    low, high = window
    clipped = volume.astype(dtype).clip(low, high)
    return ((clipped - low) * (2.0 / (high - low)) - 1.0)[..., None]
