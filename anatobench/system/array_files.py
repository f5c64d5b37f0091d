"""Named arrays as the bytes of a .safetensors file, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the whole content of a file of arrays of any shapes, the same bytes for the same arguments; the metadata
    stands in its header beside `format`, as torch users expect it."""
    # safetensors writes an array's memory as it lies: a transposed view would be saved with its values in wrong places.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(contiguous, metadata={"format": "pt", **(metadata or {})})
    return _with_ordered_metadata(content) if metadata else content


def _with_ordered_metadata(content: bytes) -> bytes:
    """Sort the entries of metadata, which the library writes in another order each time."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of eight bytes
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]])


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """BLAKE2b over names, types, shapes and values; a file's header does not count."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        state.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        state.update(arrays[name].tobytes())
    return state.hexdigest()
