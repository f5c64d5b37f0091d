"""Real engines, real processes, real kills: a run that was stopped is the run that was not.

Weights, moments and the log are compared bit for bit within a framework, and in float64 to rounding across the two.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_python import SHALLOW, ForkedPython, lasting_from
from kept_checkpoints import newest_checkpoint
from tiny_store import SMALL_FINDINGS, write_store

from anatobench.store.reader import Store

pytestmark = pytest.mark.slow

TOTAL_STEPS = 9  # 6 cases in batches of 2, 3 epochs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), SMALL_FINDINGS, {"train": 6, "validation": 2})


def start(store: Store, run: Path, framework: str, *more: str, stopped_at: int | None = None) -> ForkedPython:
    """Begin the command, which the test stops about that step."""
    command = ["-m", "anatobench", "train", "--task", "findings", "--store", str(store.root),
               "--model", "r3d_18", "--framework", framework, "--out", str(run), "--resume", "--epochs", "3",
               "--set", "batch_size=2", "--set", "learning_rate=1e-3", "--checkpoint-every", "2", *more]  # fmt: skip
    slowed = {} if stopped_at is None else lasting_from(stopped_at)
    return ForkedPython(command, {**os.environ, **SHALLOW, **slowed, "CUDA_VISIBLE_DEVICES": ""})


def finish(process: ForkedPython, status: int = 0) -> str:
    _, error = process.communicate(timeout=300)
    assert process.returncode == status, error
    return error


def logged(run: Path) -> list[dict[str, Any]]:
    """Return every whole line of the log without its times."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
        if line.endswith("\n")
    ]


def wait_for_steps(process: ForkedPython, run: Path, count: int) -> None:
    while process.poll() is None and sum(line["kind"] == "step" for line in logged(run)) < count:
        time.sleep(0.005)


def state(run: Path) -> dict[str, bytes]:
    newest = newest_checkpoint(run)
    return {name: array.tobytes() for name, array in {**newest.weights, **newest.trees["optimizer"]}.items()}


@pytest.mark.parametrize(("framework", "kills"), [("torch", [(1, 4), (5, 8)]), ("jax", [(3, 6)])])
def test_killed_at_seeded_moments(tmp_path: Path, store: Store, framework: str, kills: list[tuple[int, int]]) -> None:
    pytest.importorskip(framework)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(store, whole, framework))
    moments = random.Random(framework)
    for low, high in kills:
        process = start(store, killed, framework, stopped_at=TOTAL_STEPS)  # so that it cannot be done before
        wait_for_steps(process, killed, moments.randint(low, high))
        time.sleep(moments.uniform(0, 0.2))  # anywhere in a step, an evaluation or a checkpoint
        process.kill()
        finish(process, -signal.SIGKILL)
    finish(start(store, killed, framework))
    assert [line["step"] for line in logged(killed) if line["kind"] == "step"] == list(range(1, TOTAL_STEPS + 1))
    assert logged(killed) == logged(whole)
    assert state(killed) == state(whole)


def test_a_run_goes_on_in_the_other_framework(tmp_path: Path, store: Store) -> None:
    for framework in ("torch", "jax"):
        pytest.importorskip(framework)
    whole, switched = tmp_path / "whole", tmp_path / "switched"
    exact = ("--set", "precision=fp64")
    finish(start(store, whole, "torch", *exact))
    process = start(store, switched, "torch", *exact, stopped_at=3)
    wait_for_steps(process, switched, 3)
    process.send_signal(signal.SIGTERM)
    assert "--resume to go on" in finish(process, 130)
    finish(start(store, switched, "jax", *exact, "--switch-framework"))

    for theirs, ours in zip(logged(whole), logged(switched), strict=True):
        assert theirs["step"] == ours["step"]
        if theirs["kind"] == "step":
            assert theirs["batch_digest"] == ours["batch_digest"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
            assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-7)
    expected, found = newest_checkpoint(whole), newest_checkpoint(switched)
    assert found.progress.framework == "jax"
    assert found.trees["optimizer"].keys() == expected.trees["optimizer"].keys()
    for name, array in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
