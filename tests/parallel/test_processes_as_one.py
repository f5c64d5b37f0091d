"""N processes train as one process does with the same global batch, in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from child_processes_of_tests import by_torchrun, finish, together
from forked_python import SHALLOW
from safetensors.numpy import load_file

from anatobench.parity.comparison import largest_difference

SCRIPT = Path(__file__).parents[1] / "support" / "parallel_steps.py"
STEPS = 3


def results(
    framework: str,
    model: str,
    count: int,
    out: Path,
    *settings: str,
    steps: int = STEPS,
    torchrun: bool = False,
    shallow: bool = False,
) -> list[dict[str, np.ndarray]]:
    command = [str(SCRIPT), framework, model, str(steps), str(out), *settings]
    environment = SHALLOW if shallow else {}
    agent_options = ("--standalone", f"--nproc-per-node={count}")
    ended = finish([by_torchrun(command, *agent_options)] if torchrun else together(command, count, **environment))
    assert not any(status for status, *_ in ended), ended[0][2][-2000:]
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
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize(
    ("framework", "model", "count", "torchrun"),
    [
        ("torch", "r3d_18", 4, False),
        ("torch", "swin3d_t", 2, True),
        ("torch", "mvit_v2_s", 2, False),
        ("jax", "r3d_18", 2, True),
        pytest.param("jax", "swin3d_t", 2, False, marks=compiled_for_minutes),
        pytest.param("jax", "mvit_v2_s", 2, False, marks=compiled_for_minutes),
    ],
)
def test_processes_train_as_one(framework: str, model: str, count: int, torchrun: bool, tmp_path: Path) -> None:
    (alone,) = results(framework, model, 1, tmp_path)
    all_of_them = results(framework, model, count, tmp_path, torchrun=torchrun)
    assert alone.pop("stops").tolist() == [True] * (STEPS - 1) + [False]
    for found in all_of_them:
        assert found.pop("stops").tolist() == [True] * (STEPS - 1) + [False]
        # `predict` returns float32, so two equal values may round to neighbours.
        assert largest_difference({"l": alone["logits"]}, {"l": found.pop("logits")}).error < 1e-6
        for kind in ("weights/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "optimizer/step", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst
    for name in all_of_them[0]:
        for found in all_of_them[1:]:
            assert all_of_them[0][name].tobytes() == found[name].tobytes(), f"{name} is not the same in all processes"


@pytest.mark.slow
def test_compiled_processes_train_as_one_that_is_not(tmp_path: Path) -> None:
    """Of a model whose layers PyTorch cannot part for DistributedDataParallel; R3D's are compiled below."""
    (alone,) = results("torch", "swin3d_t", 1, tmp_path, "compile=false", steps=2, shallow=True)
    for found in results("torch", "swin3d_t", 2, tmp_path, "compile=true", "fast=true", steps=2, shallow=True):
        for kind in ("weights/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "settings", "phases"),
    [
        ("torch", (), 3),
        # Every phase is a graph of its own: two of them have all three.
        ("torch", ("compile=true", "fast=true"), 2),
        pytest.param("jax", (), 3, marks=compiled_for_minutes),
    ],
)
def test_processes_train_phases_as_one(framework: str, settings: tuple[str, ...], phases: int, tmp_path: Path) -> None:
    """With a teacher, heads that a phase leaves without a gradient, and parameters that it does not train."""
    (alone,) = results(framework, "r3d_18", 1, tmp_path, "objective=phased", steps=phases, shallow=True)
    for found in results(framework, "r3d_18", 2, tmp_path, "objective=phased", *settings, steps=phases, shallow=True):
        assert found.keys() == alone.keys()
        for kind in ("weights/", "teacher/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "figures", "case"):
            difference = largest_difference(of_kind(kind, alone), of_kind(kind, found))
            assert difference.error < 1e-9, difference.worst
        for name, count in of_kind("optimizer/step", alone).items():
            assert count == found[name], name
