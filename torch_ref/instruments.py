"""The benchmarks' instruments (anatobench/engine.py: Instruments) in PyTorch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from anatobench.engine import DeviceMemory
from torch_ref.precision import Precision

PRODUCTS = 10
SIDE = {"cuda": 8192, "cpu": 512}
"""Of the matrices: large enough to fill the device, small enough for a second."""


@dataclass(frozen=True)
class TorchInstruments:
    """Of one device, at one precision."""

    device: torch.device
    precision: Precision

    def synchronise(self) -> None:
        """See `anatobench.engine.Instruments.synchronise`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> DeviceMemory | None:
        """See `anatobench.engine.Instruments.memory`."""
        if self.device.type != "cuda":
            return None
        return DeviceMemory(
            peak=torch.cuda.max_memory_allocated(self.device),
            reserved=torch.cuda.max_memory_reserved(self.device),
            total=torch.cuda.get_device_properties(self.device).total_memory,
        )

    def release_memory(self) -> None:
        """See `anatobench.engine.Instruments.release_memory`."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def matrix_product_rate(self) -> float:
        """See `anatobench.engine.Instruments.matrix_product_rate`."""
        self.precision.set_switches()
        side = SIDE[self.device.type]
        generator = torch.Generator(self.device).manual_seed(0)
        left, right = (
            torch.randn(side, side, device=self.device, generator=generator).to(self.precision.compute_dtype)
            for _ in range(2)
        )
        for _ in range(3):
            left @ right
        self.synchronise()
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            left @ right
        self.synchronise()
        return PRODUCTS * 2.0 * side**3 / (time.perf_counter() - start)
