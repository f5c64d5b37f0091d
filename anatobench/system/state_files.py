"""Named trees of arrays as files of a folder, one `<tree>.safetensors` each, without a second copy in memory.

What both frameworks' savers share: how such a file is written, and what is never written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

Trees = Mapping[str, Mapping[str, np.ndarray]]
"""By tree and name, arrays of any shapes."""
SAFETENSORS, ORBAX = "safetensors", "orbax"
"""The forms that a state has on disk; the second is JAX's, in a folder of that name."""

_TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8", "u1": "U8"}
_ALIGNMENT = 8


class NotFiniteError(ValueError):
    """An array of a state holds NaN or an infinity."""

    def __init__(self, tree: str, name: str) -> None:
        super().__init__(f"{tree}: {name} is not finite")
        self.tree, self.name = tree, name


def safetensors_writer() -> dict[str, str]:
    """Return who writes `<tree>.safetensors`: its form and the library's version."""
    return {"form": SAFETENSORS, "version": safetensors.__version__}


def check_finite(trees: Trees) -> None:
    """Raise `NotFiniteError` for the first array, of any shape, that is not finite."""
    for tree, arrays in trees.items():
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NotFiniteError(tree, name)


def write_trees(folder: Path, trees: Trees) -> None:
    """Write every tree into the folder and wait until the disk has it; OSError where it refuses.

    The arrays, of any shapes, are written as their memory lies, so they must be contiguous.
    """
    for tree, arrays in trees.items():
        with open(folder / f"{tree}.safetensors", "xb") as file:
            file.write(_header(arrays))
            for array in _in_order(arrays).values():
                if not array.flags.c_contiguous:
                    raise ValueError(f"{tree}: not contiguous")
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())


def _in_order(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort by size of an item, the largest first, so that every array begins at a multiple of its own; then by name."""
    return dict(sorted(arrays.items(), key=lambda entry: (-entry[1].itemsize, entry[0])))


def _header(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return what stands before the arrays: the header's length, then names, types, shapes and places as JSON."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, array in _in_order(arrays).items():
        kind = _TYPES[array.dtype.str[1:]]
        end = place + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
