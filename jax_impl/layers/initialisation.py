"""Initial weights, drawn on the host: the same for a seed on every device and JAX version, and nothing to compile."""

from __future__ import annotations

import numpy as np


def kaiming_normal_fan_out(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu") of a kernel [..., in, out], float32."""
    fan_out = int(np.prod(shape[:-2])) * shape[-1]
    return normal(generator, shape, (2.0 / fan_out) ** 0.5)


def normal(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """torch.nn.init.normal_ of mean 0, float32 of that shape."""
    return generator.standard_normal(shape, np.float32) * np.float32(deviation)


def uniform(generator: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """torch.nn.init.uniform_ in +-bound, float32 of that shape."""
    return (2.0 * generator.random(shape, np.float32) - 1.0) * np.float32(bound)
