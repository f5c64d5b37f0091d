"""Named arrays as the bytes of a .safetensors file, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file's whole content; the metadata stands in its header beside `format`, as torch users expect it."""
    # safetensors writes an array's memory as it lies: a transposed view would be saved with its values in wrong places.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, metadata={"format": "pt", **(metadata or {})})


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """BLAKE2b over names, types, shapes and values; a file's header does not count."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        state.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        state.update(arrays[name].tobytes())
    return state.hexdigest()
