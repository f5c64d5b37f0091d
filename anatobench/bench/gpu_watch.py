"""The GPUs a measurement ran on, and how fast their clocks were meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from anatobench.system.gpus import visible_gpus
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


@dataclass(frozen=True)
class PowerSamples:
    """What one GPU drew, at moments by the driver's own stamp."""

    times: list[float] = field(default_factory=list)
    """Seconds since the epoch."""
    watts: list[float] = field(default_factory=list)
    """NaN where the driver does not tell."""


@dataclass
class GpuWatch:
    """GPUs while something runs on them. Everything stays empty where there is no `nvidia-smi`."""

    constants: dict[str, str] = field(default_factory=dict)
    """Of the first."""
    samples: list[list[float]] = field(default_factory=list)
    """Per moment and GPU the values of `VARYING`; NaN where the driver does not tell."""
    power: dict[str, PowerSamples] = field(default_factory=dict)
    """Of each GPU, by the driver's number of it."""
    throttle_bits: int = 0

    def to_json(self) -> dict[str, Any] | None:
        """Return None without a GPU; else the first one's constants, lowest, median and highest over all GPUs of what
        varied, and why any slowed."""
        if not self.constants:
            return None
        varied: dict[str, Any] = {}
        if self.samples:
            for name, values in zip(VARYING, np.array(self.samples).T, strict=True):
                known = values[~np.isnan(values)]
                if len(known):
                    varied[name] = {"min": known.min(), "median": float(np.median(known)), "max": known.max()}
        reasons = [reason for bit, reason in THROTTLE_REASONS.items() if self.throttle_bits & bit]
        return {
            **self.constants,
            "gpus": len(self.power),
            "samples": len(self.samples),
            **varied,
            "throttle_reasons": reasons,
        }

    def take(self, line: str) -> None:
        """Take in one line of `nvidia-smi`: its moment, the GPU's number, the values of `VARYING` and the bits of the
        throttle reasons."""
        moment, *cells, bits = (cell.strip() for cell in line.split(","))
        if len(cells) != 1 + len(VARYING):
            return
        try:
            at = datetime.strptime(moment, STAMP).timestamp()
        except ValueError:
            return
        values = [_number(cell) for cell in cells[1:]]
        self.samples.append(values)
        power = self.power.setdefault(cells[0], PowerSamples())
        power.times.append(at)
        power.watts.append(values[VARYING.index("power.draw")])
        with contextlib.suppress(ValueError):
            self.throttle_bits |= int(bits, 16)


@contextlib.contextmanager
def watched_gpus(count: int = 1, command: str = "nvidia-smi") -> Iterator[GpuWatch]:
    """Ask the driver twice a second, of the first `count` GPUs that CUDA shows, while the context is open. Reads only;
    changes no setting."""
    watch = GpuWatch()
    path = shutil.which(command)
    if path is None:
        yield watch
        return
    shown = visible_gpus()[:count] or [str(number) for number in range(count)]
    base = [path, "--format=csv,noheader,nounits", "-i", ",".join(shown)]
    constants = output_of([*base, f"--query-gpu={','.join(CONSTANTS)}"])
    query = next((name for name in THROTTLE_QUERIES if output_of([*base, f"--query-gpu={name}"]) is not None), None)
    if constants is None or query is None:
        yield watch
        return
    first = constants.partition("\n")[0]
    watch.constants = dict(zip(CONSTANTS, (cell.strip() for cell in first.split(",")), strict=False))
    process = subprocess.Popen(
        [*base, f"--query-gpu={','.join(('timestamp', 'index', *VARYING, query))}", f"--loop-ms={SAMPLES_EVERY_MS}"],
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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return float("nan")
