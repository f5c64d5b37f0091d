"""The benchmarks' instruments (anatobench/engine.py: Instruments) in JAX."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from anatobench.engine import TRACE, DeviceMemory
from jax_impl.precision import Precision

PRODUCTS = 10
SIDE = {"gpu": 8192, "cpu": 512}
"""Of the matrices: large enough to fill the device, small enough for a second."""


@dataclass(frozen=True)
class JaxInstruments:
    """Of one device, at one precision."""

    device: jax.Device
    precision: Precision
    newest: Callable[[], Any]
    """The arrays that the engine's last step computes."""

    def synchronise(self) -> None:
        """See `anatobench.engine.Instruments.synchronise`."""
        jax.block_until_ready(self.newest())

    def memory(self) -> DeviceMemory | None:
        """See `anatobench.engine.Instruments.memory`."""
        found = self.device.memory_stats()
        if not found:
            return None
        peak = int(found["peak_bytes_in_use"])
        return DeviceMemory(
            peak=peak, reserved=int(found.get("peak_pool_bytes", peak)), total=int(found["bytes_limit"])
        )

    def release_memory(self) -> None:
        """See `anatobench.engine.Instruments.release_memory`. XLA's allocator keeps what it has."""

    def matrix_product_rate(self) -> float:
        """See `anatobench.engine.Instruments.matrix_product_rate`."""
        side = SIDE.get(self.device.platform, SIDE["cpu"])
        with self.precision.applied():
            keys = jax.random.split(jax.random.key(0))
            left, right = (jax.random.normal(key, (side, side)).astype(self.precision.compute_dtype) for key in keys)
            product = jax.jit(jnp.matmul)
            for _ in range(3):
                product(left, right).block_until_ready()
            start = time.perf_counter()
            results = [product(left, right) for _ in range(PRODUCTS)]
            jax.block_until_ready(results)
            return PRODUCTS * 2.0 * side**3 / (time.perf_counter() - start)

    @contextmanager
    def trace(self, folder: Path, label: str, kind: str = TRACE) -> Iterator[None]:
        """See `anatobench.engine.Instruments.trace`: `plugins/profile/DATE/`, as xprof and TensorBoard read it."""
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of a Python function would be an event
        with jax.profiler.trace(folder, profiler_options=options):
            yield
            self.synchronise()

    def profiles(self) -> tuple[str, ...]:
        """See `anatobench.engine.Instruments.profiles`."""
        return (TRACE,)

    def named_range(self, name: str) -> AbstractContextManager[None]:
        """See `anatobench.engine.Instruments.named_range`."""
        return jax.profiler.TraceAnnotation(name)
