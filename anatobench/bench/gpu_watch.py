"""The GPU a measurement ran on, and how fast its clock was meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from anatobench.system.host import output_of

SAMPLES_EVERY_MS = 500

CONSTANTS = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "mig.mode.current")
STAMP = "%Y/%m/%d %H:%M:%S.%f"
"""Of `nvidia-smi`'s timestamps, in local time."""
VARYING = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
THROTTLE_REASONS = {
    # NVML's bits (nvml.h, nvmlClocksEventReasons); bit 0, "idle", is no throttling.
    0x2: "application clocks setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks setting",
}
THROTTLE_QUERIES = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The driver's name for them since 535, and before."""


@dataclass
class GpuWatch:
    """A GPU while something runs on it. Everything stays empty where there is no `nvidia-smi`."""

    constants: dict[str, str] = field(default_factory=dict)
    samples: list[list[float]] = field(default_factory=list)
    """Per moment the values of `VARYING`; NaN where the driver does not tell."""
    times: list[float] = field(default_factory=list)
    """Their moments by the driver's own stamp, seconds since the epoch."""
    throttle_bits: int = 0

    def to_json(self) -> dict[str, Any] | None:
        """Return None without a GPU; else the constants, lowest, median and highest of what varied, and why it
        slowed."""
        if not self.constants:
            return None
        varied: dict[str, Any] = {}
        if self.samples:
            for name, values in zip(VARYING, np.array(self.samples).T, strict=True):
                known = values[~np.isnan(values)]
                if len(known):
                    varied[name] = {"min": known.min(), "median": float(np.median(known)), "max": known.max()}
        reasons = [reason for bit, reason in THROTTLE_REASONS.items() if self.throttle_bits & bit]
        return {**self.constants, "samples": len(self.samples), **varied, "throttle_reasons": reasons}

    def watts(self) -> list[float]:
        """Return the power of each sample; NaN where the driver does not tell."""
        return [sample[VARYING.index("power.draw")] for sample in self.samples]

    def take(self, line: str) -> None:
        """Take in one line of `nvidia-smi`: its moment, the values of `VARYING` and the bits of the throttle
        reasons."""
        moment, *values, bits = (cell.strip() for cell in line.split(","))
        if len(values) != len(VARYING):
            return
        try:
            self.times.append(datetime.strptime(moment, STAMP).timestamp())
        except ValueError:
            return
        self.samples.append([_number(value) for value in values])
        with contextlib.suppress(ValueError):
            self.throttle_bits |= int(bits, 16)


@contextlib.contextmanager
def watched_gpu(command: str = "nvidia-smi") -> Iterator[GpuWatch]:
    """Ask the driver twice a second while the context is open. Reads only; changes no setting."""
    watch = GpuWatch()
    path = shutil.which(command)
    if path is None:
        yield watch
        return
    base = [path, "--format=csv,noheader,nounits", "-i", _gpu_shown()]
    constants = output_of([*base, f"--query-gpu={','.join(CONSTANTS)}"])
    query = next((name for name in THROTTLE_QUERIES if output_of([*base, f"--query-gpu={name}"]) is not None), None)
    if constants is None or query is None:
        yield watch
        return
    watch.constants = dict(zip(CONSTANTS, (cell.strip() for cell in constants.split(",")), strict=False))
    process = subprocess.Popen(
        [*base, f"--query-gpu={','.join(('timestamp', *VARYING, query))}", f"--loop-ms={SAMPLES_EVERY_MS}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_take_all, args=(process.stdout, watch), daemon=True)
    reader.start()
    try:
        yield watch
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()


def _take_all(lines: Iterator[str] | Any, watch: GpuWatch) -> None:
    for line in lines:
        watch.take(line)


def _gpu_shown() -> str:
    """Return the first GPU that CUDA shows this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return float("nan")
