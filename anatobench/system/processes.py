"""The processes that train one run together, and how each finds its place.

One process drives one device. They find each other by the variables that Slurm's `srun`, torch's `torchrun` and MPI's
`mpirun` set; without them a process is alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from anatobench.errors import AnatoBenchError, UsageError

Result = TypeVar("Result")

TIMEOUT_VARIABLE = "ANATOBENCH_TIMEOUT"
DEFAULT_TIMEOUT = 300.0
COLLECTIVE_TIMEOUT_VARIABLE = "ANATOBENCH_COLLECTIVE_TIMEOUT"
DEFAULT_COLLECTIVE_TIMEOUT = 1800.0
"""One process may compile while the others wait: PyTorch's MViT took 206 s on an H100 with nothing cached."""
LONGEST_TIMEOUT = 1e6
_MESSAGE_BYTES = 1000
"""Of what failed in one process, as the others are told it."""
DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    """Place among the processes of this node, which decides the device."""
    coordinator: str = f"localhost:{DEFAULT_PORT}"
    """host:port at which the first process is found."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds to wait for the others to come before giving up."""
    collective_timeout: float = DEFAULT_COLLECTIVE_TIMEOUT
    """Seconds that those who have met wait for the slowest of them in whatever they do together."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count or self.local_index < 0:
            raise UsageError(f"process {self.index} of {self.count} (local {self.local_index}): count from 0")
        for name, seconds in (
            (TIMEOUT_VARIABLE, self.timeout),
            (COLLECTIVE_TIMEOUT_VARIABLE, self.collective_timeout),
        ):
            if not 0 < seconds <= LONGEST_TIMEOUT:
                raise UsageError(f"{name}={seconds:g}: seconds, more than 0 and at most {LONGEST_TIMEOUT:g}")

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks to the person."""
        return self.index == 0

    def share(self, batch_size: int) -> int:
        """Cases of a global batch that this process gets; `UsageError` if they cannot be shared out evenly."""
        if batch_size % self.count:
            raise UsageError(
                f"batch size {batch_size} cannot be shared by {self.count} processes: choose a multiple "
                f"(--set batch_size={self.count * max(1, batch_size // self.count)})"
            )
        return batch_size // self.count


ALONE = Processes()

AGENT_VARIABLE = "TORCHELASTIC_USE_AGENT_STORE"
"""torchrun sets it: its own process listens at MASTER_PORT, so the run's processes meet at the port beside it."""
LAST_PORT = 65535
GO = b"go"
RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Launcher:
    """The variables in which a program that starts processes tells each its place."""

    index: str
    count: str
    local_index: tuple[str, ...]
    """The first that is set."""
    local_count: str | None = None
    """How many there are on this node: where that is all of them, they can meet without being told where."""


LAUNCHERS = (
    Launcher("RANK", "WORLD_SIZE", ("LOCAL_RANK",)),  # torchrun may itself have been started by srun
    # So may mpirun, whose daemons then are the step's tasks. Open MPI:
    Launcher(
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("OMPI_COMM_WORLD_LOCAL_RANK",), "OMPI_COMM_WORLD_LOCAL_SIZE"
    ),
    # MPICH, Intel MPI and Cray's mpiexec (srun --mpi=pmi2 sets the first two, too):
    Launcher(
        "PMI_RANK",
        "PMI_SIZE",
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID"),
        "MPI_LOCALNRANKS",
    ),
    # srun sets these for its steps alone: SLURM_NTASKS stands in a batch script's own environment, too.
    Launcher("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_LOCALID",)),
)
"""In the order in which they are believed."""


def find_processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Read this process's place from the environment.

    `MASTER_ADDR` and `MASTER_PORT` name the first process's host and port, `ANATOBENCH_TIMEOUT` and
    `ANATOBENCH_COLLECTIVE_TIMEOUT` how long they wait for each other; `UsageError` if several processes were started
    and `MASTER_ADDR` is missing, or if a variable is no number.
    """
    alone = Processes(
        timeout=_seconds(environment, TIMEOUT_VARIABLE, DEFAULT_TIMEOUT),
        collective_timeout=_seconds(environment, COLLECTIVE_TIMEOUT_VARIABLE, DEFAULT_COLLECTIVE_TIMEOUT),
    )
    for launcher in LAUNCHERS:
        if launcher.count not in environment or launcher.index not in environment:
            continue
        number = _number(environment, launcher.count)
        if number == 1:
            continue
        local_index = next((name for name in launcher.local_index if name in environment), launcher.local_index[0])
        return replace(
            alone,
            index=_number(environment, launcher.index),
            count=number,
            local_index=_number(environment, local_index),
            coordinator=_coordinator(environment, launcher, number),
        )
    return alone


def _coordinator(environment: Mapping[str, str], launcher: Launcher, count: int) -> str:
    host = environment.get("MASTER_ADDR")
    if host is None and launcher.local_count and environment.get(launcher.local_count) == str(count):
        host = "localhost"
    if host is None:
        raise UsageError(
            f"{count} processes were started, but MASTER_ADDR does not name the first one's host: export MASTER_ADDR "
            "(and MASTER_PORT) as slurm/train.sh does, give them to mpirun (-x or -genv), or start with torchrun"
        )
    port = _number(environment, "MASTER_PORT") if "MASTER_PORT" in environment else DEFAULT_PORT
    if environment.get(AGENT_VARIABLE) == "True":
        port += 1 if port < LAST_PORT else -1
    return f"{host}:{port}"


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise UsageError(f"{name}={text!r} in the environment: not a whole number")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} in the environment: not a number of seconds") from None


def meet(processes: Processes) -> None:
    """Wait until every process is there. `AnatoBenchError` that names who is missing, after the timeout.

    The first process listens at the coordinator's port, and the port is free again afterwards.
    """
    if processes.alone:
        return
    deadline = time.monotonic() + processes.timeout
    if processes.leads:
        _await_the_others(processes, deadline)
    else:
        _report_to_the_first(processes, deadline)


def _await_the_others(processes: Processes, deadline: float) -> None:
    port = int(processes.coordinator.rpartition(":")[2])
    arrived: dict[int, socket.socket] = {}
    try:
        with socket.create_server(("", port), backlog=processes.count) as server:
            while len(arrived) < processes.count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                connection, _ = server.accept()
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                arrived[int.from_bytes(connection.recv(4), "big")] = connection
        for connection in arrived.values():
            connection.sendall(GO)
            connection.recv(1)  # they hang up first, so that the port is free at once
    except OSError as error:
        if not isinstance(error, TimeoutError):
            raise AnatoBenchError(
                f"process 0 of {processes.count} cannot meet the others at {processes.coordinator}: {error}: "
                "give MASTER_PORT another free port"
            ) from None
        missing = ", ".join(str(index) for index in range(1, processes.count) if index not in arrived)
        raise AnatoBenchError(
            f"process 0 of {processes.count} did not find the others at {processes.coordinator} within "
            f"{processes.timeout:g} s: {missing} did not come"
        ) from None
    finally:
        for connection in arrived.values():
            connection.close()


def _report_to_the_first(processes: Processes, deadline: float) -> None:
    host, _, port = processes.coordinator.rpartition(":")
    failure: Exception | str = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as connection:
                connection.sendall(processes.index.to_bytes(4, "big"))
                if connection.recv(len(GO)) == GO:
                    return
                failure = "the first process gave up"
                break
        except OSError as error:  # not there yet, or a name that does not resolve
            failure = error
            time.sleep(min(RETRY_SECONDS, left))
    raise AnatoBenchError(
        f"process {processes.index} of {processes.count} did not find the others at {processes.coordinator} within "
        f"{processes.timeout:g} s: {failure}"
    )


def raise_together(
    processes: Processes, gather: Callable[[np.ndarray], np.ndarray], failure: BaseException | None
) -> None:
    """Raise in every process what failed in one of them: there its own exception, `AnatoBenchError` with its words in
    the others. All of them call it at the same place.

    `gather` takes an array [...] of the same shape and type in all of them and gives all of these, [processes, ...].
    """
    if processes.alone:
        if failure is not None:
            raise failure
        return
    failed = gather(np.array([failure is not None], np.int8))[:, 0]
    if not failed.any():
        return
    said = np.zeros(_MESSAGE_BYTES, np.uint8)
    words = np.frombuffer(str(failure or "").encode()[:_MESSAGE_BYTES], np.uint8)
    said[: words.size] = words
    first = int(np.flatnonzero(failed)[0])
    told = gather(said)[first].tobytes().rstrip(b"\0").decode(errors="ignore")
    if failure is not None:
        raise failure
    raise AnatoBenchError(f"process {first} cannot go on: {told}")


def after_leader(
    processes: Processes, gather: Callable[[np.ndarray], np.ndarray], action: Callable[[], Result]
) -> Result | None:
    """Let the first process act while the others wait; its result, None in the others. `AnatoBenchError` in all of them
    if it fails, in the first one OSError where the disk refuses. `gather` as in `raise_together`, [...] to
    [processes, ...]."""
    result: Result | None = None
    failure: Exception | None = None
    if processes.leads:
        try:
            result = action()
        except (AnatoBenchError, OSError) as error:
            failure = error
    failed = gather(np.array([failure is not None]))[0, 0]
    if failure is not None:
        raise failure
    if failed:
        raise AnatoBenchError("the first process gave up; its own message says why")
    return result
