"""`anatobench train` in several processes: one run's folder, stopped as one, going on with another number of them."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from child_processes_of_tests import finish, together
from forked_python import SHALLOW, ForkedPython, lasting_from
from kept_checkpoints import newest_checkpoint
from tiny_store import SMALL_FINDINGS, write_store

from anatobench.parity.comparison import largest_difference
from anatobench.store.reader import Store

pytestmark = pytest.mark.slow

EPOCH = 4  # steps: 16 cases in batches of 4
TOTAL_STEPS = 3 * EPOCH
LONGER = ("--epochs", "6")  # so that there is time to fill the disk; every epoch is saved
LONGER_STEPS = 6 * EPOCH
LARGEST_FILE = (
    100_000  # bytes, for a process to whom the disk is full: above what it logs, below its part of a checkpoint
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), SMALL_FINDINGS, {"train": 16, "validation": 6})


def train(
    store: Store, run: Path, framework: str, count: int, *more: str, stopped_at: int | None = None
) -> list[ForkedPython]:
    """Return the command in `count` processes that know of each other, and that the test stops about that step."""
    command = ["-m", "anatobench", "train", "--task", "findings", "--store", str(store.root),
               "--model", "r3d_18", "--framework", framework, "--out", str(run), "--resume", "--epochs", "3",
               "--set", "batch_size=4", "--set", "learning_rate=1e-3", "--set", "precision=fp64", "--json",
               *more]  # fmt: skip
    slowed = {} if stopped_at is None else lasting_from(stopped_at)
    return together(command, count, ANATOBENCH_TIMEOUT="60", **SHALLOW, **slowed)


Alone = Callable[[str], Path]
"""A framework's run in one process from its beginning to its end, made once."""


@pytest.fixture(scope="module")
def alone(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    @cache
    def trained(framework: str) -> Path:
        run = tmp_path_factory.mktemp("alone") / framework
        ((status, said, errors),) = finish(train(store, run, framework, 1))
        assert status == 0, errors
        assert json.loads(said.splitlines()[-1])["steps"] == TOTAL_STEPS
        return run

    return trained


@pytest.fixture(scope="module")
def other_weights(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of weights that another seed gives; a file is of no framework."""
    run = tmp_path_factory.mktemp("other") / "run"
    ((status, _, errors),) = finish(train(store, run, "torch", 1, "--set", "seed=5", "--steps", "1"))
    assert status == 0, errors
    return run / "initial.safetensors"


@pytest.fixture(scope="module")
def alone_from_them(store: Store, other_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of one process that begins with them, PyTorch's: JAX's is the same in float64."""
    run = tmp_path_factory.mktemp("from_a_file") / "run"
    ((status, _, errors),) = finish(train(store, run, "torch", 1, *begin_with(other_weights)))
    assert status == 0, errors
    return run


def begin_with(weights: Path) -> tuple[str, ...]:
    return ("--initial-weights", str(weights), "--steps", "3")


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [record for line in lines if line.endswith("\n") and (record := json.loads(line))["kind"] == kind]


def wait_for_steps(processes: list[ForkedPython], run: Path, count: int) -> None:
    while all(process.poll() is None for process in processes) and len(logged(run, "step")) < count:
        time.sleep(0.01)


def wait_for_a_checkpoint(processes: list[ForkedPython], run: Path, step: int) -> None:
    saved = run / "checkpoints" / f"step_{step:08d}"
    while all(process.poll() is None for process in processes) and not saved.exists():
        time.sleep(0.01)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_run_stopped_in_two_processes_ends_in_one_as_if_it_had_always_been_one(
    framework: str, alone: Alone, store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "together"
    pair = train(store, run, framework, 2, stopped_at=3)
    wait_for_steps(pair, run, 3)
    pair[1].send_signal(signal.SIGUSR1)  # the one that does not write
    ended = finish(pair)
    assert [status for status, *_ in ended] == [130, 130], ended
    step = newest_checkpoint(run).progress.step
    assert 3 <= step < TOTAL_STEPS
    for _, _, errors in ended:
        assert f"after step {step} of {TOTAL_STEPS}, which is saved" in errors
    assert ended[1][2].count("\n") == 1, "the second process says why it stops, and nothing else"

    ((status, _, errors),) = finish(train(store, run, framework, 1))
    assert status == 0, errors
    assert f"going on after step {step}" in errors
    expected, found = newest_checkpoint(alone(framework)), newest_checkpoint(run)
    for name in ("model", "optimizer"):
        assert largest_difference(expected.trees[name], found.trees[name]).error < 1e-9
    for kind, keys in (("step", ("step", "loss", "gradient_norm")), ("evaluation", ("step", "auc_macro"))):
        pairs = list(zip(logged(alone(framework), kind), logged(run, kind), strict=True))
        assert len(pairs) == (TOTAL_STEPS if kind == "step" else 3)
        for one, other in pairs:
            assert [one[key] for key in keys] == pytest.approx([other[key] for key in keys], rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [("jax", "torch"), ("torch", "jax")])
def test_two_processes_then_one_of_the_other_framework_then_two_again(
    first: str, second: str, alone: Alone, store: Store, tmp_path: Path
) -> None:
    """Every form of checkpoint is read by every number of processes and by both frameworks."""
    run, step = tmp_path / "moving", 0
    for framework, count, stopped in ((first, 2, True), (second, 1, True), (first, 2, False)):
        middle = step + 3 if stopped else None
        group = train(store, run, framework, count, "--switch-framework", "--checkpoint-every", "2", stopped_at=middle)
        if middle is not None:
            wait_for_steps(group, run, middle)
            for process in group:
                process.send_signal(signal.SIGTERM)
        ended = finish(group)
        assert {status for status, *_ in ended} == {130 if stopped else 0}, ended
        newest = newest_checkpoint(run)
        step = newest.progress.step
        folder = run / "checkpoints" / f"step_{step:08d}"
        assert (folder / "orbax").exists() == (framework == "jax")
        assert newest.progress.framework == framework
        if framework == "jax":  # each its part, and nobody for the others
            written = [folder / "orbax" / f"ocdbt.process_{index}" / "d" for index in range(count)]
            sizes = [sum(file.stat().st_size for file in data.iterdir()) for data in written]
            assert max(sizes) < 1.5 * min(sizes)
    assert step == TOTAL_STEPS
    expected, found = newest_checkpoint(alone(first)), newest_checkpoint(run)
    for name in ("model", "optimizer"):
        assert largest_difference(expected.trees[name], found.trees[name]).error < 1e-8


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_all_of_them_begin_with_the_weights_of_a_file(
    framework: str, alone: Alone, other_weights: Path, alone_from_them: Path, store: Store, tmp_path: Path
) -> None:
    run = tmp_path / "together"
    ended = finish(train(store, run, framework, 2, *begin_with(other_weights)))
    assert [status for status, *_ in ended] == [0, 0], ended
    expected, found = newest_checkpoint(alone_from_them), newest_checkpoint(run)
    assert largest_difference(expected.weights, found.weights).error < 1e-9
    drawn, first = logged(alone(framework), "step")[0], logged(run, "step")[0]
    assert drawn["loss"] != first["loss"]


def test_a_folder_that_cannot_be_used_ends_all_of_them(store: Store, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious.txt").touch()
    ended = finish(train(store, tmp_path / "taken", "torch", 2))
    assert [status for status, *_ in ended] == [1, 1]
    assert "not empty and not a run" in ended[0][2]
    assert "the first process gave up" in ended[1][2]
    assert [said for _, said, _ in ended] == ["", ""]


def test_a_killed_process_ends_the_others_and_the_run_goes_on(store: Store, tmp_path: Path) -> None:
    pair = train(store, tmp_path / "run", "torch", 2, "--checkpoint-every", "2", stopped_at=5)
    wait_for_steps(pair, tmp_path / "run", 5)
    pair[1].kill()
    ended = finish(pair)
    assert ended[0][0] not in (0, 130)
    saved = newest_checkpoint(tmp_path / "run").progress.step
    assert saved >= 4
    ended = finish(train(store, tmp_path / "run", "torch", 2, "--checkpoint-every", "2"))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert [record["step"] for record in logged(tmp_path / "run", "step")] == list(range(1, TOTAL_STEPS + 1))
    assert json.loads(ended[0][1])["device"]["count"] == 2
    assert ended[1][1] == "", "the figures are printed once"


@pytest.mark.parametrize(("framework", "places"), [("torch", [0]), ("jax", [0, 1])])
def test_a_save_that_fails_in_one_of_them_ends_all_of_them(
    framework: str, places: list[int], store: Store, tmp_path: Path
) -> None:
    """With the disk's own reason, and the checkpoint before it goes on, also in another number of processes: of PyTorch
    the first process writes, of JAX each its part."""
    run, newest = tmp_path / "run", 0
    for full in places:
        pair = train(store, run, framework, 2, *LONGER, stopped_at=newest + EPOCH)
        wait_for_a_checkpoint(pair, run, newest + EPOCH)
        resource.prlimit(pair[full].pid, resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        ended = finish(pair)  # which fails if one waits for what never comes
        assert all(status not in (0, 130) for status, *_ in ended), ended
        assert "cannot be written (File too large): make room and resume" in ended[full][2]
        for _, _, errors in ended:
            assert "Traceback" not in errors
            assert errors.splitlines()[-1].startswith("anatobench train: "), errors
        before, newest = newest, newest_checkpoint(run).progress.step
        assert before + EPOCH <= newest < LONGER_STEPS
        assert before == 0 or f"going on after step {before}" in ended[0][2]
    ((status, _, errors),) = finish(train(store, run, "torch", 1, *LONGER, "--switch-framework"))
    assert status == 0, errors
    assert f"going on after step {newest}" in errors
    assert newest_checkpoint(run).progress.step == LONGER_STEPS
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")) == []


def test_a_log_that_cannot_be_written_ends_all_of_them(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pair = train(store, run, "torch", 2, *LONGER, stopped_at=EPOCH)
    wait_for_a_checkpoint(pair, run, EPOCH)
    full = (run / "metrics.jsonl").stat().st_size
    resource.prlimit(pair[0].pid, resource.RLIMIT_FSIZE, (full, full))
    for status, _, errors in finish(pair):
        assert status == 1, errors
        assert "Traceback" not in errors
        assert "metrics.jsonl: cannot be written (File too large)" in errors
    ended = finish(train(store, run, "torch", 2, *LONGER))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert [record["step"] for record in logged(run, "step")] == list(range(1, LONGER_STEPS + 1))
