"""What travels from the host to a device for one step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DIAGNOSIS = ("volume", "organs", "targets")
"""The arrays that a diagnosis reads, in the order of a batch's digest."""


@dataclass(frozen=True)
class Batch:
    """Arrays of some cases, by name."""

    arrays: Mapping[str, np.ndarray]
    """Each [B, ...]; what the objective reads. A diagnosis has
    `volume`, int16 [B, D, H, W], HU: the device clips, normalises and casts;
    `organs`, uint8 [B, D, H, W], organ indices, `IGNORED_ORGAN` where a case has no mask;
    `targets`, int8 [B, groups], grade per label group, `MISSING_TARGET` where unknown;
    and, of a task whose cases have weights of their own, `weight`, float32 [B, 1]."""
    case_index: np.ndarray
    """int32 [B], position of each case in the store's index; -1 for padding of an evaluation batch."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def size(self) -> int:
        """Number of cases, padding included."""
        return len(self.case_index)

    def part(self, cases: slice) -> Batch:
        """Return some of its cases."""
        return Batch({name: array[cases] for name, array in self.arrays.items()}, self.case_index[cases])

    def digest(self) -> str:
        """BLAKE2b of every byte: equal digests prove that two frameworks saw the same batch."""
        state = hashlib.blake2b(digest_size=16)
        for name, given in (*self.arrays.items(), ("case_index", self.case_index)):
            array = np.ascontiguousarray(given)
            state.update(f"{name}{array.dtype}{array.shape}".encode())
            state.update(array.data)
        return state.hexdigest()
