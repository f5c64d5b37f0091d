"""How the processes of one run find each other, by every launcher, and how long they wait for each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes_of_tests import by_torchrun, finish, free_port, together, without_places
from cluster_jobs import install
from forked_python import ForkedPython

SCRIPT = Path(__file__).parents[1] / "support" / "late_process.py"
BOTH = "[0, 1]"
"""What each of two processes prints that have heard of each other."""
LATE = {
    "torch": ("torch", "25", {"ANATOBENCH_TIMEOUT": "20"}),
    "jax": ("jax", "25", {"ANATOBENCH_TIMEOUT": "20"}),
    "limited": ("torch", "15", {"ANATOBENCH_COLLECTIVE_TIMEOUT": "10"}),
}
"""Pairs of which one process is late: framework, seconds, and what the environment says."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("begins_at_once")]


@pytest.fixture(scope="module", autouse=True)
def late() -> Iterator[dict[str, list[ForkedPython]]]:
    """Begin the pairs at once: they sleep beside the module's other tests, and its last ones look at them."""
    pairs = {
        name: together([str(SCRIPT), framework, seconds], 2, **environment)
        for name, (framework, seconds, environment) in LATE.items()
    }
    yield pairs
    for pair in pairs.values():
        for process in pair:
            process.kill()


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("how", ["--standalone", "--master-port={port}"])
def test_torchrun_starts_them(framework: str, how: str) -> None:
    """With its own agent at MASTER_PORT, on one node."""
    agent = by_torchrun([str(SCRIPT), framework, "0"], "--nproc-per-node=2", how.format(port=free_port()))
    ((status, said, errors),) = finish([agent])
    assert status == 0, errors[-2000:]
    assert said.count(BOTH) == 2, said


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_two_agents_of_torchrun_on_one_machine_start_them(framework: str) -> None:
    """As `--nnodes 2` does on two, each agent being called by itself."""
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=localhost", f"--master-port={free_port()}"]
    agents = [by_torchrun([str(SCRIPT), framework, "0"], *meeting, f"--node-rank={node}") for node in (0, 1)]
    ended = finish(agents)
    assert [status for status, *_ in ended] == [0, 0], ended[0][2][-2000:] + ended[1][2][-2000:]
    assert [said.splitlines()[-1] for _, said, _ in ended] == [BOTH] * 2


MPI = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}


@pytest.mark.parametrize(("framework", "kind"), [("torch", "Open MPI"), ("jax", "MPICH")])
def test_what_mpirun_tells_its_processes_starts_them(framework: str, kind: str) -> None:
    index, count, local_index = MPI[kind]
    meeting = {count: "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    started = [
        ForkedPython(
            [str(SCRIPT), framework, "0"],
            {**without_places(), **meeting, index: str(place), local_index: str(place)},
        )
        for place in (0, 1)
    ]
    ended = finish(started)
    assert [status for status, *_ in ended] == [0, 0], ended[0][2][-2000:]
    assert [said.splitlines()[-1] for _, said, _ in ended] == [BOTH] * 2


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_mpirun_starts_them(framework: str) -> None:
    if shutil.which("mpirun") is None and os.environ.get("ANATOBENCH_CLUSTER_TESTS") == "1":
        install("openmpi-bin")
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("no mpirun here")
    environment = {**without_places(), "MASTER_PORT": str(free_port()),
                   # Open MPI refuses root and more processes than cores unless it is told that they are meant.
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1"}  # fmt: skip
    ended = subprocess.run(
        [mpirun, "-np", "2", sys.executable, str(SCRIPT), framework, "0"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count(BOTH) == 2, ended.stdout


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_process_whose_others_never_come_gives_up_with_one_line(framework: str) -> None:
    started = []
    for index in (0, 1):  # the one that waits to be found, and one that looks for it
        place = {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "ANATOBENCH_TIMEOUT": "1"}
        started.append(ForkedPython([str(SCRIPT), framework, "0"], {**os.environ, **place, **meeting}))
    for index, (status, _, errors) in enumerate(finish(started)):
        assert status != 0
        assert f"process {index} of 2 did not find the others at localhost:" in errors


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_those_who_have_met_wait_longer_for_work_than_for_the_meeting(
    framework: str, late: dict[str, list[ForkedPython]]
) -> None:
    """As for a program that one of them compiles for minutes."""
    ended = finish(late[framework])
    assert [(status, said.splitlines()[-1]) for status, said, _ in ended] == [(0, BOTH)] * 2, ended


def test_how_long_they_wait_for_work_can_be_set(late: dict[str, list[ForkedPython]]) -> None:
    (status, said, errors), _ = finish(late["limited"])
    assert status != 0
    assert BOTH not in said
    assert "Timed out" in errors
