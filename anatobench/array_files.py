"""Named arrays as the bytes of a .safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file's whole content; the metadata stands in its header beside `format`, as torch users expect it."""
    # safetensors writes an array's memory as it lies: a transposed view would be saved with its values in wrong places.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, metadata={"format": "pt", **(metadata or {})})
