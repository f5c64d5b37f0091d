"""What this process has in the host's memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def host_memory() -> tuple[int, int]:
    """Bytes of this process that are in memory now, and at most were at once.

    Not from `getrusage` where /proc has it: on Linux that also holds what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    found = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(found["VmRSS"].split()[0]) * 1024, int(found["VmHWM"].split()[0]) * 1024
