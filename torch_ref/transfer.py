"""Arrays from the host to the device, on a stream of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Copies to one device. On a GPU a copy runs beside the step before: the host does not wait for it, and what is
    computed afterwards does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, array: np.ndarray) -> Tensor:
        """Return a tensor of the same type and shape; on a CPU it shares the array's memory."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._stream is None:
            return tensor
        with torch.cuda.stream(self._stream):
            moved = tensor.pin_memory().to(self._device, non_blocking=True)  # from pageable memory it would wait
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        moved.record_stream(current)
        return moved
