"""The GPUs that this process may use, counted without a framework."""

from __future__ import annotations

import os
import subprocess

from anatobench.errors import UsageError

QUERY = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, each one; empty without a GPU or driver."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def choose_gpus(wanted: int | None) -> list[str]:
    """The first `wanted` visible GPUs, all of them for None; empty means the CPU. `UsageError` if there are fewer."""
    if wanted == 0:
        return []
    visible = visible_gpus()
    if wanted is None:
        return visible
    if len(visible) < wanted:
        raise UsageError(f"--gpus {wanted}: {len(visible)} GPU(s) visible here (nvidia-smi, CUDA_VISIBLE_DEVICES)")
    return visible[:wanted]
