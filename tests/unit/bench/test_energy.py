"""Joules per step and case: from a counter that gives known figures, from power samples, and from nothing."""

import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.bench.arm_group import merged
from anatobench.bench.arms import Arm
from anatobench.bench.energy import COUNTER, LIBRARY_VARIABLE, SAMPLES, Spent, energy_record, in_words
from anatobench.bench.gpu_watch import PowerSamples
from anatobench.bench.intervals import mean_interval
from anatobench.bench.step import StepBenchmark, bench_step
from anatobench.cli.bench_step import print_step
from anatobench.engine import ModelSpec
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
TASK = TASKS["ct_rate"]
SPEC = ModelSpec("r3d_18", "tiny", TASK, TASK.geometry("tiny").crop_size)

FAKE_NVML = """
/* Every reading is 300 J after the one before; the handle must be that of the GPU asked for. */
static unsigned long long used = 5000000;
static int gpu3;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &gpu3; return index != 3; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = &gpu3; return uuid[0] != 'G'; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  used += 300000; *mj = used; return device == &gpu3 ? %d : 7;
}
"""


def fake_nvml(folder: Path, status: int = 0) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C compiler here")
    (folder / "nvml.c").write_text(FAKE_NVML % status)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-x", "c", "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    return library


def measured(variant: str) -> dict[str, Any]:
    asked = StepBenchmark((Arm(None, PEER, variant),), SPEC, Recipe(batch_size=2), rounds=3, steps_per_turn=4)
    return bench_step(asked)


@pytest.mark.parametrize("gpu", ["3", "GPU-7c2e"])
def test_the_counter_is_read_around_the_timed_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: str
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fake_nvml(tmp_path)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
    record = measured("gpu")
    found = record["arms"][0]["energy"]
    assert found["source"] == COUNTER
    assert (found["joules_per_step"], found["joules_per_case"], found["turns"]) == (75.0, 37.5, 3)
    assert (found["ci95_per_step"], found["ci95_per_case"]) == ([75.0, 75.0], [37.5, 37.5])
    print_step(record)
    assert "75.0 J/step, 37.5 J/case [37.5, 37.5] (NVML counter)" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on a CPU beside one, nor for a GPU without counter whose power nobody told."""
    monkeypatch.setenv(LIBRARY_VARIABLE, str(fake_nvml(tmp_path)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert measured("plain")["arms"][0]["energy"] is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert measured("gpu")["arms"][0]["energy"] is None, "another GPU's handle is refused"
    assert in_words(None) == ""


def test_the_energy_of_several_gpus_is_their_sum_or_unknown() -> None:
    """A step of N processes costs what N GPUs use: one GPU's would be an N-th of it per case."""
    parts = [Spent(10.0, 14.0, 300.0, 4), Spent(9.5, 13.0, 500.0, 4)]
    answers = [{"seconds": [1.0] * 4, "spent": asdict(part)} for part in parts]
    assert Spent(**merged(answers)["spent"]) == Spent(9.5, 14.0, 800.0, 4)
    answers[1]["spent"] = asdict(replace(parts[1], joules=None))
    assert Spent(**merged(answers)["spent"]).joules is None


def test_a_gpu_without_counter_is_integrated_over_its_power() -> None:
    times = np.arange(0.0, 10.5, 0.5)
    watts = np.where(times < 5, 100.0, 300.0)
    watts[3] = np.nan
    turns = [Spent(1.0, 3.0, None, 4), Spent(6.25, 8.25, None, 4), Spent(9.9, 11.0, None, 4)]
    power = PowerSamples(list(times), list(watts))
    found = energy_record(turns, [power], batch_size=2)
    assert found is not None
    assert found["source"] == SAMPLES
    assert found["turns"] == 2, "the third was not over when the last sample was taken"
    assert found["joules_per_step"] == pytest.approx((200 + 600) / 2 / 4)
    assert found["joules_per_case"] == pytest.approx(found["joules_per_step"] / 2)
    assert found["watts"] == pytest.approx(200)
    assert found["ci95_per_step"] == pytest.approx([50, 150])
    between = energy_record([Spent(4.5, 5.0, None, 1)] * 2, [power], batch_size=1)
    assert between is not None
    assert between["joules_per_step"] == pytest.approx(0.5 * 200), "a straight line from 100 to 300 W"
    assert energy_record(turns[:1], [power], 2) is None, "one turn has no interval"
    assert energy_record(turns, [], 2) is None
    assert energy_record(turns, [PowerSamples()], 2) is None


def test_the_power_of_several_gpus_adds_up_or_nothing_is_claimed() -> None:
    times = list(np.arange(0.0, 10.5, 0.5))
    turns = [Spent(1.0, 3.0, None, 4), Spent(6.25, 8.25, None, 4)]
    first, second = (PowerSamples(times, [watts] * len(times)) for watts in (300.0, 500.0))
    found = energy_record(turns, [first, second], batch_size=2)
    assert found is not None
    assert found["watts"] == pytest.approx(800)
    assert found["joules_per_step"] == pytest.approx(800 * 2 / 4)
    silent = PowerSamples(times, [float("nan")] * len(times))
    assert energy_record(turns, [first, silent], batch_size=2) is None


def test_the_interval_of_a_mean_holds_it_and_narrows() -> None:
    samples = np.random.default_rng(1).normal(10.0, 2.0, 400)
    few, many = mean_interval(samples[:20]), mean_interval(samples)
    assert few[0] < samples[:20].mean() < few[1]
    assert many[0] < samples.mean() < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 2
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * samples.std() / 20, rel=0.1)
