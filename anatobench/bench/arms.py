"""The arms of a step benchmark as the measuring process sees them: child processes that answer requests in turns."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anatobench.bench.arm_homes import LOG, MODULE, Home, Served
from anatobench.errors import AnatoBenchError
from anatobench.system.parent import child_environment

# Several processes share a GPU: XLA must not take most of its memory at its start, and may take all of it in the end.
XLA_MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
SECONDS_TO_END = 10.0
WITHOUT_HEAD = " without head"
"""Ends the name of an arm that has no segmentation head."""


@dataclass(frozen=True)
class Arm:
    """What is measured."""

    framework: str | None
    """One of `recipes.FRAMEWORKS`, or None for a peer."""
    peer: Path | None = None
    """A Python file with `VARIANTS` and `build(variant, spec, recipe)`; see benchmarks/peers/step_torchvision.py."""
    variant: str = ""
    segmentation: bool = True
    home: Home | None = None
    """Where its framework is installed; None: where this process's is."""
    processes: int = 1
    """How many, each with a device of its own, take every step together. For frameworks alone."""

    @property
    def name(self) -> str:
        """What tables call it."""
        peer = "" if self.peer is None else f"{self.peer.stem.removeprefix('step_')}:{self.variant}"
        return (self.framework or peer) + ("" if self.segmentation else WITHOUT_HEAD)

    @property
    def peer_name(self) -> str | None:
        """File and variant of a peer, without its folder."""
        return None if self.peer is None else f"{self.peer.name}:{self.variant}"


class ArmError(AnatoBenchError):
    """An arm answered with an error, died, or took too long."""

    def __init__(
        self, message: str, out_of_memory: bool = False, died: bool = False, out_of_time: bool = False
    ) -> None:
        super().__init__(message)
        self.out_of_memory, self.died, self.out_of_time = out_of_memory, died, out_of_time

    def to_json(self) -> dict[str, Any]:
        """As records hold it."""
        return {"error": str(self), "out_of_memory": self.out_of_memory}


class ArmProcess:
    """A child process, alive until the context closes. What it prints stands in `<folder>/<number>.log`.

    One that is started elsewhere (`Served`) has a folder `<folder>/<number>`, and is ended by who started it.
    """

    def __init__(self, arm: Arm, folder: Path, number: int, environment: Mapping[str, str] = os.environ) -> None:
        self.arm = arm
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        own = {} if arm.home is None else arm.home.environment()
        environment = {**XLA_MEMORY, **environment, **own}
        if isinstance(arm.home, Served):
            self._place = folder / str(number)
            self._log = self._place / LOG
            self._requests, self._answers = arm.home.start(self._place, environment)
            return
        words = [sys.executable, "-m", MODULE] if arm.home is None else arm.home.words(folder)
        self._log = folder / f"{number}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=child_environment(environment) if arm.home is None else environment,  # a launcher may be between
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> ArmProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        """Let it end by itself; a framework that hangs at its exit is killed. Once is enough."""
        if self._answers.closed:
            return
        with suppress(OSError):
            self._requests.close()
        seconds = 0 if any(exception) else SECONDS_TO_END
        if self._process is None:
            self._stop_served(seconds)
        else:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._answers.close()

    def _stop_served(self, seconds: float) -> None:
        """Wait until its answers end, which is when it does, then have it ended."""
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            while select.select([self._answers], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                if not os.read(self._answers.fileno(), 1 << 16):
                    return
        if isinstance(self.arm.home, Served):
            with suppress(AnatoBenchError, OSError):
                self.arm.home.tell(f"stop {self._place}")

    def ask(self, what: str, deadline: float | None = None, **details: Any) -> dict[str, Any]:
        """`send`, then `receive`."""
        self.send(what, **details)
        return self.receive(deadline)

    def send(self, what: str, **details: Any) -> None:
        """Send a request; `ArmError` if the process is gone."""
        try:
            self._requests.write(json.dumps({"do": what, **details}).encode() + b"\n")
        except OSError:
            raise self._died() from None

    def receive(self, deadline: float | None = None) -> dict[str, Any]:
        """Return the answer. `ArmError` if it is an error, if the process dies, or at `deadline` (of
        `time.monotonic`)."""
        while b"\n" not in self._received:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not select.select([self._answers], [], [], left)[0]:
                if self._process is None:
                    self._stop_served(0)
                else:
                    self._process.kill()
                raise ArmError("stopped: it was not ready when the time was up", out_of_time=True)
            content = os.read(self._answers.fileno(), 1 << 16)
            if not content:
                raise self._died()
            self._received += content
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArmError(answer["error"], answer["out_of_memory"])
        return answer

    def _died(self) -> ArmError:
        status = None if self._process is None else self._process.wait()
        said = self._log.read_text(errors="replace")
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        starved = status in (-9, 137) or any(word in said for word in ("bad_alloc", "out of memory", "MemoryError"))
        known = "" if status is None else f" (exit status {status})"
        return ArmError(f"its process died{known}: {last[:300]}", starved, died=True)
