"""Telling that a device's memory was too small, from what either framework says then."""

from __future__ import annotations

OUT_OF_MEMORY_WORDS = (
    "out of memory", "OutOfMemory", "RESOURCE_EXHAUSTED", "allocate memory", "MemoryError", "bad_alloc",
)  # fmt: skip
"""What the message of a failure says where memory was what was missing."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of any framework means that memory was missing."""
    said = f"{type(error).__name__}: {error}"
    return any(word in said for word in OUT_OF_MEMORY_WORDS)
