"""Where an arm's framework is installed, if not beside this process: another interpreter, an image, or a process that
somebody else has started."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.gpus import visible_gpus
from anatobench.system.json_text import parse_json

MODULE = "anatobench.bench.arm_process"
CONTAINER_VARIABLE = "ANATOBENCH_CONTAINER"
"""Environment variable: the program that runs images, `apptainer` unless it says otherwise."""
REQUESTS, ANSWERS, LOG, DESCRIPTION = "requests", "answers", "log", "home.json"
"""Files in the folder of a process that was started already: two named pipes, what it prints, and (optional) one JSON
object that says where it runs."""


class Home(Protocol):
    """What starts an arm's process."""

    def words(self, folder: Path) -> list[str]:
        """Return the command; `folder` holds the batch, and every home must see it under this name."""

    def environment(self) -> dict[str, str]:
        """Variables beside those that this process gives an arm."""

    def to_json(self) -> dict[str, Any]:
        """As records hold it."""


@dataclass(frozen=True)
class Interpreter:
    """Another Python, of a virtual environment with that framework. It runs the code of this process."""

    path: Path

    def words(self, folder: Path) -> list[str]:
        return [str(self.path), "-m", MODULE]

    def environment(self) -> dict[str, str]:
        code = str(Path(__file__).parents[2])
        return {"PYTHONPATH": os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))}

    def to_json(self) -> dict[str, Any]:
        return {"python": str(self.path)}


@dataclass(frozen=True)
class Image:
    """A container image, which brings its own code: its version and commit stand in the record."""

    path: Path

    def words(self, folder: Path) -> list[str]:
        program = os.environ.get(CONTAINER_VARIABLE) or "apptainer"
        if shutil.which(program) is None:
            raise UsageError(
                f"{program}: not on the path, and {self.path} needs it ({CONTAINER_VARIABLE} names another)"
            )
        gpu = ["--nv"] if visible_gpus() else []
        seen = [f"--bind={name}" for name in (folder, *_own_folders())]
        # Not in the folder one stands in, whose code Python would take before the image's.
        return [program, "exec", *gpu, *seen, f"--pwd={folder}", str(self.path), "python", "-m", MODULE]

    def environment(self) -> dict[str, str]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"image": str(self.path), "sha256": _sha256(self.path) if self.path.is_file() else None}


@dataclass(frozen=True)
class Started:
    """A process that waits at named pipes, as slurm/compare.sh starts one from each image."""

    folder: Path

    def words(self, folder: Path) -> list[str]:
        return []

    def environment(self) -> dict[str, str]:
        return {}

    def to_json(self) -> dict[str, Any]:
        try:
            described = parse_json((self.folder / DESCRIPTION).read_text())
        except (OSError, ValueError):
            described = None
        return described if isinstance(described, dict) else {}


def _own_folders() -> list[str]:
    """Return where arms keep compiled programs, if the environment says so."""
    named = [os.environ.get(name) for name in ("ANATOBENCH_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR")]
    return [name for name in named if name and os.path.isdir(name)]


@cache
def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AnatoBenchError(f"{path}: {error.strerror}") from None
