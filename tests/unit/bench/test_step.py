"""The step benchmark's record: what it promises, in both frameworks, on the same bytes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from anatobench.bench.flops import count
from anatobench.bench.step import median_interval, random_batch
from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.tasks import TASKS

KEYS = {"median_s", "ci95_s", "samples_per_s", "model_flops_per_step", "mfu", "peak_memory_bytes", "compile_s"}
KEYS |= {"device", "versions", "batch_digest"}


def record(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    arguments = ["bench", "step", "--model", "r3d_18", "--size", "tiny", "--batch-size", "2", "--repeats", "3"]
    assert main([*arguments, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_both_frameworks_measure_the_same_work(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    torch, jax = (record(capsys, "--framework", name, "--geometry", "chest") for name in ("torch", "jax"))
    spec = ModelSpec("r3d_18", "tiny", TASKS["ct_rate"], TASKS["ct_rate"].geometry("tiny").crop_size)
    for found in (torch, jax):
        assert set(found) >= KEYS
        low, high = found["ci95_s"]
        assert 0 < low <= found["median_s"] <= high
        assert found["model_flops_per_step"] == 2 * count(spec).training
        assert found["samples_per_s"] == pytest.approx(2 / found["median_s"])
        assert found["compile_s"] > 0
        assert found["peak_memory_bytes"] > 0
    assert torch["batch_digest"] == jax["batch_digest"]


def test_random_batch_is_no_batch_of_zeros() -> None:
    task = TASKS["ratic"]
    spec = ModelSpec("r3d_18", "tiny", task, task.geometry("tiny").crop_size)
    batch = random_batch(spec, 8, seed=1)
    assert batch.volume.dtype == np.int16
    assert (batch.volume == 0).mean() < 0.02
    assert set(np.unique(batch.organs)) == set(range(task.segmentation_classes))
    assert batch.digest() == random_batch(spec, 8, seed=1).digest() != random_batch(spec, 8, seed=2).digest()


def test_interval_holds_the_median_of_skewed_times() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = median_interval(rng.exponential(size=41))
        hits += low <= np.log(2) <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "step", "--model", "r3d_18", "--framework", "torch", "--geometry", "chest", "--repeats", "1"]
    assert main(words) == 2
    assert "--repeats" in capsys.readouterr().err


def test_the_step_benchmark_imports_nothing_heavy() -> None:
    """It must run on a node that has a framework and little else."""
    code = (
        "import sys, anatobench.bench.step, anatobench.cli.bench\n"
        "heavy = {'grain', 'orbax', 'monai', 'nibabel', 'pydicom', 'sklearn', 'matplotlib', 'tensorboard'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
