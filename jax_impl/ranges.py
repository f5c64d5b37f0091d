"""Named ranges of a step in a trace: on the host annotations, inside a compiled program names of operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def named_range(name: str) -> Iterator[None]:
    """Call what is done inside `name` in a trace.

    What is traced by `jax.jit` inside carries the name in its operations' own (`transpose(jvp(forward))` is the
    backward pass of `forward`), which changes nothing of what is computed.
    """
    with jax.profiler.TraceAnnotation(name), jax.named_scope(name):
        yield
