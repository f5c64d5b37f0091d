"""The benchmarks' instruments (anatobench/engine.py: Instruments) in PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from anatobench.engine import NSYS, TRACE, DeviceMemory
from torch_ref.precision import Precision
from torch_ref.ranges import named_range, nvtx_ranges

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

    @contextmanager
    def trace(self, folder: Path, label: str, kind: str = TRACE) -> Iterator[None]:
        """See `anatobench.engine.Instruments.trace`: `label`.json.gz, or NVTX ranges between cudaProfilerStart and
        Stop."""
        cuda = self.device.type == "cuda"
        if kind == NSYS:
            with nvtx_ranges(), torch.cuda.profiler.profile():
                yield
                self.synchronise()
            return
        if not cuda:  # it would call the missing GPU an error
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as found:
            yield
            self.synchronise()
        folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(folder / f"{label}.json.gz"))

    def profiles(self) -> tuple[str, ...]:
        """See `anatobench.engine.Instruments.profiles`."""
        return (TRACE, NSYS) if self.device.type == "cuda" else (TRACE,)

    def named_range(self, name: str) -> AbstractContextManager[None]:
        """See `anatobench.engine.Instruments.named_range`."""
        return named_range(name)
