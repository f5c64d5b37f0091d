"""What travels from the host to a device for one step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Batch:
    """What travels from the host to a device for one step."""

    volume: np.ndarray
    """int16 [B, D, H, W], HU: the device clips, normalises and casts."""
    organs: np.ndarray
    """uint8 [B, D, H, W], organ indices; `IGNORED_ORGAN` where a case has no mask."""
    targets: np.ndarray
    """int8 [B, groups], grade per label group; `MISSING_TARGET` where unknown."""
    case_index: np.ndarray
    """int32 [B], position of each case in the store's index; -1 for padding of an evaluation batch."""

    @property
    def size(self) -> int:
        return int(self.volume.shape[0])

    def digest(self) -> str:
        """BLAKE2b of every byte: equal digests prove that two frameworks saw the same batch."""
        state = hashlib.blake2b(digest_size=16)
        for field in fields(self):
            array = np.ascontiguousarray(getattr(self, field.name))
            state.update(f"{field.name}{array.dtype}{array.shape}".encode())
            state.update(array.data)
        return state.hexdigest()
