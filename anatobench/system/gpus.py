"""The GPUs that this process may use, counted without a framework, and those that Slurm gave its job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from anatobench.errors import AnatoBenchError, UsageError

DEVICE_VARIABLE = "ANATOBENCH_DEVICE"
"""Environment variable: `cpu` insists on the CPU, whatever GPUs there are."""
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


def gpus_of_the_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return how Slurm said that this job has GPUs, as `NAME=VALUE`; None outside a job, or in one without GPUs."""
    if not environment.get("SLURM_JOB_ID"):
        return None
    for name in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        value = environment.get(name, "")
        if value not in ("", "-1", "NoDevFiles") and not (name == "SLURM_GPUS_ON_NODE" and value == "0"):
            return f"{name}={value}"
    return None


def insist_on_cpu() -> None:
    """From here on neither framework, nor a child process, looks for a GPU. To be called before one is imported."""
    os.environ |= {DEVICE_VARIABLE: "cpu", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


def refuse_unwanted_cpu(kind: str) -> None:
    """`AnatoBenchError` if a framework computes on the CPU (`kind`) in a job that has GPUs and nobody insisted."""
    given = gpus_of_the_job()
    if kind != "cpu" or given is None or os.environ.get(DEVICE_VARIABLE) == "cpu":
        return
    raise AnatoBenchError(
        f"this job has GPUs ({given}), but the framework finds none it can use and would compute on the CPU: look at "
        "the driver (nvidia-smi), at --nv, and at which build of the framework this is; "
        f"{DEVICE_VARIABLE}=cpu in the environment (or train's --device cpu) insists on the CPU"
    )


def choose_gpus(wanted: int | None) -> list[str]:
    """Return the first `wanted` visible GPUs, all of them for None; empty means the CPU. `UsageError` if there are
    fewer."""
    if wanted == 0:
        return []
    visible = visible_gpus()
    if wanted is None:
        return visible
    if len(visible) < wanted:
        raise UsageError(f"--gpus {wanted}: {len(visible)} GPU(s) visible here (nvidia-smi, CUDA_VISIBLE_DEVICES)")
    return visible[:wanted]
