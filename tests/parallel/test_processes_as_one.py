"""N processes train as one process does with the same global batch, in float64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from child_processes_of_tests import finish, free_port
from cluster_jobs import install
from forked_python import ForkedPython
from safetensors.numpy import load_file

from anatobench.parity.comparison import largest_difference

SCRIPT = Path(__file__).parents[1] / "support" / "parallel_steps.py"
LATE = Path(__file__).parents[1] / "support" / "late_process.py"
STEPS = 3


def start(command: list[str], count: int, **environment: str) -> list[ForkedPython]:
    """Return the same command in `count` processes that know of each other."""
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()),
              **environment}  # fmt: skip
    return [ForkedPython(command, {**shared, "RANK": str(index), "LOCAL_RANK": str(index)}) for index in range(count)]


def results(framework: str, model: str, count: int, out: Path, *settings: str) -> list[dict[str, np.ndarray]]:
    ended = finish(start([str(SCRIPT), framework, model, str(STEPS), str(out), *settings], count))
    assert [status for status, *_ in ended] == [0] * count, ended[0][2][-2000:]
    return [load_file(out / f"process_{index}_of_{count}.safetensors") for index in range(count)]


def of_kind(kind: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compare together: a moment that is zero but for rounding is small beside the others of its kind."""
    found = {name: array for name, array in arrays.items() if name.startswith(kind)}
    assert found, kind
    return found


compiled_for_minutes = pytest.mark.skipif(
    "ANATOBENCH_LONG_TESTS" not in os.environ,
    reason="XLA compiles it in three processes for minutes: set ANATOBENCH_LONG_TESTS to run it",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "model", "count"),
    [
        ("torch", "r3d_18", 2),
        ("torch", "r3d_18", 4),
        ("torch", "swin3d_t", 2),
        ("torch", "mvit_v2_s", 2),
        ("jax", "r3d_18", 2),
        pytest.param("jax", "swin3d_t", 2, marks=compiled_for_minutes),
        pytest.param("jax", "mvit_v2_s", 2, marks=compiled_for_minutes),
    ],
)
def test_processes_train_as_one(framework: str, model: str, count: int, tmp_path: Path) -> None:
    (alone,) = results(framework, model, 1, tmp_path)
    together = results(framework, model, count, tmp_path)
    assert alone.pop("stops").tolist() == [True] * (STEPS - 1) + [False]
    for found in together:
        assert found.pop("stops").tolist() == [True] * (STEPS - 1) + [False]
        # `predict` returns float32, so two equal values may round to neighbours.
        assert largest_difference({"l": alone["logits"]}, {"l": found.pop("logits")}).error < 1e-6
        for kind in ("weights/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "optimizer/step", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst
    for name in together[0]:
        for found in together[1:]:
            assert together[0][name].tobytes() == found[name].tobytes(), f"{name} is not the same in all processes"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r3d_18", "swin3d_t"])
def test_compiled_processes_train_as_one_that_is_not(model: str, tmp_path: Path) -> None:
    (alone,) = results("torch", model, 1, tmp_path, "compile=false")
    for found in results("torch", model, 2, tmp_path, "compile=true", "fast=true"):
        for kind in ("weights/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "settings"),
    [
        ("torch", ()),
        ("torch", ("compile=true", "fast=true")),
        pytest.param("jax", (), marks=compiled_for_minutes),
    ],
)
def test_processes_train_phases_as_one(framework: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    """With a teacher, heads that a phase leaves without a gradient, and parameters that it does not train."""
    (alone,) = results(framework, "r3d_18", 1, tmp_path, "objective=phased")
    for found in results(framework, "r3d_18", 2, tmp_path, "objective=phased", *settings):
        assert found.keys() == alone.keys()
        for kind in ("weights/", "teacher/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst
        for name, count in of_kind("optimizer/step", alone).items():
            assert count == found[name], name


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("how", ["--standalone", "--master-port={port}"])
def test_torchrun_starts_them(framework: str, how: str, tmp_path: Path) -> None:
    """With its own agent at MASTER_PORT, on one node."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", how.format(port=free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "MASTER_PORT")}
    ended = subprocess.run(
        [*torchrun, str(SCRIPT), framework, "r3d_18", "1", str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    ours, theirs = (load_file(tmp_path / f"process_{index}_of_2.safetensors") for index in (0, 1))
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), f"{name} is not the same in both processes"


def without_places() -> dict[str, str]:
    """Return the environment without what a launcher may have set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "ANATOBENCH_TIMEOUT": "120"}


def equal_states(out: Path) -> bool:
    """Whether the two processes that were started ended with the same weights and moments."""
    ours, theirs = (load_file(out / f"process_{index}_of_2.safetensors") for index in (0, 1))
    return all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_two_agents_of_torchrun_on_one_machine_start_them(framework: str, tmp_path: Path) -> None:
    """As `--nnodes 2` does on two, each agent being called by itself."""
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=localhost", f"--master-port={free_port()}"]
    command = [str(SCRIPT), framework, "r3d_18", "1", str(tmp_path)]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *meeting, f"--node-rank={node}", *command],
            env=without_places(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for node in (0, 1)
    ]  # fmt: skip
    ended = finish(agents)
    assert [status for status, *_ in ended] == [0, 0], ended[0][2][-2000:] + ended[1][2][-2000:]
    assert equal_states(tmp_path)


MPI = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "kind"), [("torch", "Open MPI"), ("jax", "MPICH")])
def test_what_mpirun_tells_its_processes_starts_them(framework: str, kind: str, tmp_path: Path) -> None:
    index, count, local_index = MPI[kind]
    meeting = {count: "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    started = [
        ForkedPython(
            [str(SCRIPT), framework, "r3d_18", "1", str(tmp_path)],
            {**without_places(), **meeting, index: str(place), local_index: str(place)},
        )
        for place in (0, 1)
    ]
    ended = finish(started)
    assert [status for status, *_ in ended] == [0, 0], ended[0][2][-2000:]
    assert equal_states(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_mpirun_starts_them(framework: str, tmp_path: Path) -> None:
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
        [mpirun, "-np", "2", sys.executable, str(SCRIPT), framework, "r3d_18", "1", str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert equal_states(tmp_path)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_process_whose_others_never_come_gives_up_with_one_line(framework: str, tmp_path: Path) -> None:
    command = [str(SCRIPT), framework, "r3d_18", "1", str(tmp_path)]
    for index in (0, 1):  # the one that waits to be found, and one that looks for it
        place = {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "ANATOBENCH_TIMEOUT": "3"}
        environment = {**os.environ, **place, **meeting}
        ((status, _, errors),) = finish([ForkedPython(command, environment)])
        assert status != 0
        assert f"process {index} of 2 did not find the others at localhost:" in errors


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_those_who_have_met_wait_longer_for_work_than_for_the_meeting(framework: str) -> None:
    """As for a program that one of them compiles for minutes."""
    ended = finish(start([str(LATE), framework, "40"], 2, ANATOBENCH_TIMEOUT="35"))
    assert [(status, said.splitlines()[-1]) for status, said, _ in ended] == [(0, "[0, 1]")] * 2, ended


@pytest.mark.slow
def test_how_long_they_wait_for_work_can_be_set() -> None:
    (status, said, errors), _ = finish(start([str(LATE), "torch", "22"], 2, ANATOBENCH_COLLECTIVE_TIMEOUT="15"))
    assert status != 0
    assert "[0, 1]" not in said
    assert "Timed out" in errors
