"""Where an arm's framework is installed, if not beside this process: another interpreter, an image, or wherever
somebody else starts the process."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.gpus import visible_gpus
from anatobench.system.json_text import parse_json

MODULE = "anatobench.bench.arm_process"
CONTAINER_VARIABLE = "ANATOBENCH_CONTAINER"
"""Environment variable: the program that runs images, `apptainer` unless it says otherwise."""
REQUESTS, ANSWERS, LOG, ENVIRONMENT = "requests", "answers", "log", "environment"
"""Files in the folder of a process that somebody else starts: two named pipes, what it prints, and what `env` is to
change, a word a line."""
DESCRIPTION_SUFFIX = ".json"
"""Beside the pipe of who starts them (optional): one JSON object that says where they run."""
SECONDS_TO_START = 60.0


class Home(Protocol):
    """What starts an arm's process."""

    def words(self, folder: Path) -> list[str]:
        """Return the command; `folder` holds the batch, and every home must see it under this name."""

    def environment(self) -> dict[str, str]:
        """Variables beside those that this process gives an arm."""

    def to_json(self) -> dict[str, Any]:
        """As records hold it."""

    def option(self, framework: str) -> list[str]:
        """Return the option of `bench step` that names it for a framework."""


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

    def option(self, framework: str) -> list[str]:
        return ["--python", f"{framework}={self.path}"]


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

    def option(self, framework: str) -> list[str]:
        return ["--image", f"{framework}={self.path}"]


@dataclass(frozen=True)
class Served:
    """Wherever somebody starts processes who listens at a named pipe, as slurm/job.sh does outside of all images.

    `start FOLDER` asks for one, which reads FOLDER/requests and writes FOLDER/answers; `stop FOLDER` ends it.
    """

    pipe: Path

    def words(self, folder: Path) -> list[str]:
        return []

    def environment(self) -> dict[str, str]:
        return {}

    def to_json(self) -> dict[str, Any]:
        try:
            described = parse_json(self.pipe.with_suffix(DESCRIPTION_SUFFIX).read_text())
        except (OSError, ValueError):
            described = None
        return described if isinstance(described, dict) else {}

    def option(self, framework: str) -> list[str]:
        return ["--served", f"{framework}={self.pipe}"]

    def start(self, folder: Path, environment: Mapping[str, str]) -> tuple[IO[bytes], IO[bytes]]:
        """Have a process started with this environment; its requests and its answers. `AnatoBenchError` if nobody
        does."""
        folder.mkdir()
        for name in (REQUESTS, ANSWERS):
            os.mkfifo(folder / name)
        gone = [f"--unset={name}" for name in os.environ if name not in environment]
        changed = [f"{name}={value}" for name, value in environment.items() if os.environ.get(name) != value]
        (folder / ENVIRONMENT).write_text("".join(f"{word}\n" for word in (*gone, *changed)))
        self.tell(f"start {folder}")
        deadline = time.monotonic() + SECONDS_TO_START
        while (requests := _opened_for_writing(folder / REQUESTS)) is None:
            if time.monotonic() > deadline:
                raise AnatoBenchError(f"{self.pipe}: no process was started within {SECONDS_TO_START:g} s")
            time.sleep(0.02)
        return requests, (folder / ANSWERS).open("rb", buffering=0)

    def tell(self, line: str) -> None:
        """Say it to who listens."""
        pipe = _opened_for_writing(self.pipe)
        if pipe is None:
            raise AnatoBenchError(f"{self.pipe}: nobody listens there who would start a process")
        with pipe:
            pipe.write(f"{line}\n".encode())


def _opened_for_writing(pipe: Path) -> IO[bytes] | None:
    """Return None as long as nobody reads it."""
    try:
        number = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    os.set_blocking(number, True)
    return os.fdopen(number, "wb", buffering=0)


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
