"""int16 HU as they travel to the device -> what the model sees."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(volume: Tensor, window: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """Clip HU to `window` and map it to [-1, 1]: int16 [B, D, H, W] to `dtype` [B, 1, D, H, W]."""
    low, high = window
    clipped = volume.to(dtype).clamp(low, high)
    return ((clipped - low) * (2.0 / (high - low)) - 1.0).unsqueeze(1)
