"""The container image that this process runs in, as records name it.

An image made by containers/build.sh describes itself in a file; which file on disk or in a registry it came from only
the job or the runtime knows. `python -m anatobench.system.image` tells both and checks the driver.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anatobench import __version__
from anatobench.errors import AnatoBenchError
from anatobench.system.cuda_driver import OLDEST_DRIVER, cuda_of, describe_cuda, driver_version, refuse_old_driver
from anatobench.system.json_text import json_bytes, read_json

DESCRIPTION_VARIABLE = "ANATOBENCH_IMAGE_DESCRIPTION"
"""Environment variable, set in every image: where its description lies."""
DIGEST_VARIABLE = "ANATOBENCH_IMAGE_DIGEST"
"""Environment variable: `sha256:...` of the image, from a job or from whoever started a container."""
PATH_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
"""The runtimes' own: the image's path on the host."""
SUMS = ".sha256"
"""Ends the name of the file beside an image that holds its sum, as sha256sum writes it."""
PACKAGES = ("torch", "torchvision", "triton", "jax", "jaxlib", "flax", "optax", "nvidia-nccl-cu12", "nvidia-nccl-cu13")


@cache
def describe_image() -> dict[str, Any] | None:
    """Return the image's own description, `path` and `digest` (None where nobody tells); None outside an image."""
    where = os.environ.get(DESCRIPTION_VARIABLE)
    if not where:
        return None
    try:
        described = read_json(Path(where))
    except AnatoBenchError as error:
        described = {"error": str(error)}
    path = next((os.environ[name] for name in PATH_VARIABLES if os.environ.get(name)), None)
    told = os.environ.get(DIGEST_VARIABLE) or (None if path is None else digest_of(Path(path)))
    return {**(described if isinstance(described, dict) else {}), "path": path, "digest": told}


def digest_of(image: Path) -> str | None:
    """Return `sha256:...` of an image's file, from the file of sums beside it if that is the newer one; None for a
    folder, or for what this process cannot read."""
    with suppress(OSError):
        if not image.is_file():
            return None
        sums = image.with_name(image.name + SUMS)
        if sums.is_file() and sums.stat().st_mtime >= image.stat().st_mtime:
            match = re.match(r"[0-9a-f]{64}\b", sums.read_text())
            if match:
                return f"sha256:{match[0]}"
        with image.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return None


def in_words(described: Mapping[str, Any]) -> str:
    """Return one line for a log."""
    name = Path(described["path"]).name if described.get("path") else "an image"
    commit = (described.get("commit") or "unknown")[:12]
    return f"in {name}: AnatoBench {described.get('version')}, commit {commit}, {described['digest'] or 'no digest'}"


def description(framework: str, commit: str) -> dict[str, Any]:
    """Return what an image says of itself, from what is installed."""
    cuda = cuda_of(framework)
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "framework": framework,
        "version": __version__,
        "commit": commit or None,
        "cuda": cuda,
        "oldest_driver": None if cuda is None else OLDEST_DRIVER[cuda],
        "packages": packages,
    }


def labels(described: Mapping[str, Any]) -> str:
    """Return one `key value` line for each label, as Apptainer reads them."""
    shown = {
        "framework": described["framework"],
        "cuda": described["cuda"] or "none",
        "oldest-driver": described["oldest_driver"] or "none",
        **described["packages"],
    }
    return "".join(f"org.anatobench.{name} {value}\n" for name, value in shown.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Print what this image is; 1 if the node's driver is too old for it."""
    parser = argparse.ArgumentParser(
        prog="anatobench-image", description="What this image holds, and the node's driver"
    )
    parser.add_argument("--describe", nargs=2, metavar=("FRAMEWORK", "COMMIT"), help="for the recipes")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="for the recipes")
    args = parser.parse_args(argv)
    if args.describe:
        sys.stdout.write(json_bytes(description(*args.describe)).decode())
        return 0
    if args.labels:
        sys.stdout.write(labels(read_json(args.labels)))
        return 0
    described = describe_image()
    if described is None:
        print("not in an image made by containers/build.sh", file=sys.stderr)
        return 1
    print(json.dumps(described))
    framework = described["framework"]
    try:
        refuse_old_driver(framework)
    except AnatoBenchError as error:
        print(f"anatobench-image: {error}", file=sys.stderr)
        return 1
    print(describe_cuda(framework, driver_version()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
