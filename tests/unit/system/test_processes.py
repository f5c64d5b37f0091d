"""A process finds its place in what srun and torchrun set, and nowhere else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from child_processes_of_tests import free_port

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.processes import ALONE, Processes, after_leader, find_processes, meet

SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4",
        "MASTER_ADDR": "node1", "MASTER_PORT": "1234"}  # fmt: skip
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "::1", "MASTER_PORT": "5"}


def test_srun_and_torchrun() -> None:
    found = find_processes(SRUN)
    assert (found.index, found.count, found.local_index, found.coordinator) == (3, 4, 1, "node1:1234")
    assert not found.leads
    assert not found.alone
    found = find_processes({**TORCHRUN, **{name: "0" for name in ("SLURM_PROCID", "SLURM_LOCALID")},
                            "SLURM_STEP_NUM_TASKS": "1"})  # fmt: skip
    assert (found.index, found.count) == (1, 2)


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}  # fmt: skip
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(("launcher", "place"), [(OPEN_MPI, (5, 8, 1)), (MPICH, (3, 4, 1))], ids=["Open MPI", "MPICH"])
def test_mpirun_also_where_srun_started_its_daemons(launcher: dict[str, str], place: tuple[int, ...]) -> None:
    daemon = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    found = find_processes({**launcher, **daemon, "MASTER_ADDR": "node1"})
    assert (found.index, found.count, found.local_index) == place
    assert found.coordinator == "node1:29500"
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        find_processes(launcher)


def test_mpirun_on_one_node_need_not_say_where_they_meet() -> None:
    for launcher, local in ((OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE"), (MPICH, "MPI_LOCALNRANKS")):
        count = launcher["OMPI_COMM_WORLD_SIZE" if launcher is OPEN_MPI else "PMI_SIZE"]
        assert find_processes({**launcher, local: count}).coordinator == "localhost:29500"


def test_sruns_own_pmi_has_no_local_place_but_sruns() -> None:
    found = find_processes({**SRUN, "PMI_RANK": "3", "PMI_SIZE": "4"})
    assert (found.index, found.count, found.local_index) == (3, 4, 1)


@pytest.mark.parametrize(("port", "met"), [("29400", "node:29401"), ("65535", "node:65534")])
def test_where_torchruns_agent_listens_the_processes_meet_beside_it(port: str, met: str) -> None:
    environment = {**TORCHRUN, "MASTER_ADDR": "node", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert find_processes(environment).coordinator == met
    assert find_processes({**environment, "TORCHELASTIC_USE_AGENT_STORE": "False"}).coordinator == f"node:{port}"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # A batch script's own environment: the job has four tasks, this process is none of them.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_a_process_is_alone_unless_it_was_started_with_others(environment: dict[str, str]) -> None:
    assert find_processes(environment) == ALONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR"),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID='x'"),
        ({"SLURM_PROCID": "4"}, "process 4 of 4"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT"),
        ({"ANATOBENCH_TIMEOUT": "soon"}, "ANATOBENCH_TIMEOUT"),
        ({"ANATOBENCH_TIMEOUT": "0"}, "ANATOBENCH_TIMEOUT"),
        ({"ANATOBENCH_COLLECTIVE_TIMEOUT": "an hour"}, "ANATOBENCH_COLLECTIVE_TIMEOUT"),
        ({"ANATOBENCH_COLLECTIVE_TIMEOUT": "inf"}, "ANATOBENCH_COLLECTIVE_TIMEOUT=inf"),
        ({"ANATOBENCH_COLLECTIVE_TIMEOUT": "nan"}, "ANATOBENCH_COLLECTIVE_TIMEOUT=nan"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, str | None], message: str) -> None:
    environment = {name: value for name, value in (SRUN | change).items() if value is not None}
    with pytest.raises(UsageError, match=message):
        find_processes(environment)


def test_meeting_and_working_together_have_a_patience_of_their_own() -> None:
    found = find_processes({**TORCHRUN, "ANATOBENCH_TIMEOUT": "20"})
    assert (found.timeout, found.collective_timeout) == (20, 1800)
    found = find_processes({**TORCHRUN, "ANATOBENCH_COLLECTIVE_TIMEOUT": "7200"})
    assert (found.timeout, found.collective_timeout) == (300, 7200)


def test_a_batch_is_shared_out_evenly_or_not_at_all() -> None:
    assert Processes(0, 4).share(8) == 2
    with pytest.raises(UsageError, match=r"batch size 10 cannot be shared by 4 processes.*batch_size=8"):
        Processes(0, 4).share(10)


def of_two(failed: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return what both processes hear, whoever asks."""
    return lambda array: np.array([[failed], [False]])


def test_a_failure_of_the_first_process_ends_all_of_them() -> None:
    def fail() -> int:
        raise AnatoBenchError("the folder is taken")

    with pytest.raises(AnatoBenchError, match="the folder is taken"):
        after_leader(Processes(0, 2), of_two(True), fail)
    with pytest.raises(AnatoBenchError, match="the first process gave up"):
        after_leader(Processes(1, 2), of_two(True), fail)
    asked: list[bool] = []

    def full() -> int:
        raise OSError(28, "No space left on device")

    def told(array: np.ndarray) -> np.ndarray:
        asked.append(bool(array[0]))
        return of_two(True)(array)

    with pytest.raises(OSError, match="No space left"):
        after_leader(Processes(0, 2), told, full)
    assert asked == [True], "the others are told"
    assert after_leader(Processes(1, 2), of_two(False), fail) is None
    assert after_leader(Processes(0, 2), of_two(False), lambda: 7) == 7


def test_processes_meet_in_any_order_and_leave_the_port_free() -> None:
    first = Processes(0, 3, coordinator=f"localhost:{free_port()}", timeout=20)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):  # again at once, at the same port
            list(pool.map(meet, [replace(first, index=2), replace(first, index=1), first]))


def test_who_is_missing_is_named_on_both_sides() -> None:
    first = Processes(0, 4, coordinator=f"localhost:{free_port()}", timeout=1.0)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(meet, replace(first, index=2, timeout=20))
        with pytest.raises(AnatoBenchError, match=r"process 0 of 4 .* 1, 3 did not come"):
            meet(first)
        with pytest.raises(AnatoBenchError, match=r"process 2 of 4 .* the first process gave up"):
            waiting.result()


def test_a_host_that_does_not_exist_and_a_taken_port_are_named() -> None:
    with pytest.raises(AnatoBenchError, match=r"nowhere.invalid:1 within 0.5 s"):
        meet(Processes(1, 2, coordinator="nowhere.invalid:1", timeout=0.5))
    with socket.create_server(("", 0)) as taken:
        coordinator = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(AnatoBenchError, match="in use"):
            meet(Processes(0, 2, coordinator=coordinator, timeout=0.5))
