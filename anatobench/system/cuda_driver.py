"""Which CUDA a framework was built for, and whether this node's driver is new enough for it; nothing is imported."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from anatobench.errors import AnatoBenchError
from anatobench.system.gpus import DEVICE_VARIABLE, visible_gpus

OLDEST_DRIVER = {12: 525, 13: 580}
"""By the major version of CUDA, which runs on every driver since (NVIDIA, CUDA Compatibility, table 1)."""
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def cuda_of(framework: str) -> int | None:
    """Return the major version of CUDA that the framework installed here was built for; None for a build without."""
    if framework == "jax":
        for major in sorted(OLDEST_DRIVER, reverse=True):
            with suppress(PackageNotFoundError):
                version(f"jax-cuda{major}-plugin")
                return major
        return None
    found = find_spec(framework)
    said = Path(found.origin).with_name("version.py") if found is not None and found.origin else None
    if said is None or not said.is_file():
        return None
    match = re.search(r"^cuda\b.*=\s*['\"](\d+)\.", said.read_text(), re.MULTILINE)
    return int(match[1]) if match else None


def driver_version(module: Path = KERNEL_MODULE) -> str | None:
    """Return that of NVIDIA's kernel module, such as 580.159.04; None where there is none."""
    with suppress(OSError):
        match = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", module.read_text())
        if match:
            return match[1]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=True)
        return next((line.strip() for line in done.stdout.splitlines() if line.strip()[:1].isdigit()), None)
    return None


def describe_cuda(framework: str, driver: str | None) -> str:
    """Return one line: the CUDA of this build, the driver that it needs, and the one that is here."""
    cuda = cuda_of(framework)
    if cuda is None:
        return f"{framework} without CUDA"
    here = "no driver here" if driver is None else f"here {driver}"
    return f"{framework} for CUDA {cuda}, driver {OLDEST_DRIVER.get(cuda, 'unknown')} or newer ({here})"


def refuse_old_driver(framework: str) -> None:
    """`AnatoBenchError` in one line if there are GPUs whose driver is older than the framework's CUDA needs."""
    cuda = cuda_of(framework)
    oldest = OLDEST_DRIVER.get(cuda or 0)
    if oldest is None or os.environ.get(DEVICE_VARIABLE) == "cpu" or not visible_gpus():
        return
    driver = driver_version()
    if driver is None or int(driver.partition(".")[0]) >= oldest:
        return
    older = [f"--cuda {major}" for major, least in OLDEST_DRIVER.items() if int(driver.partition(".")[0]) >= least]
    advice = f"build the image with containers/build.sh {framework} {older[-1]}, or " if older else ""
    raise AnatoBenchError(
        f"this node's driver {driver} is too old for {framework} with CUDA {cuda}, which needs {oldest} or newer: "
        f"{advice}take a node with a newer driver; --device cpu computes without"
    )
