"""The load benchmark: its record, its arithmetic, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_status import exit_status
from record_schema import assert_valid

from anatobench.bench.loading import Loading, LoadPlan, PlainCopy, first_batch, memory_growth
from anatobench.bench.random_store import write_random_store
from anatobench.bench.rounds import measure_in_turns, processor_seconds, rates, ratio_with_interval
from anatobench.cli.main import main
from anatobench.tasks import get_task

WORDS = ["bench", "load", "--geometry", "chest", "--size", "tiny", "--cases", "9", "--scans", "3", "--batch-size", "2"]
WORDS += ["--rounds", "2", "--round-batches", "2", "--json"]


def record_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


def test_record_says_what_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    record = record_of(capsys, *WORDS, "--workers", "0,2", "--batches", "8", "--demand", "5")
    assert_valid(record, "load")
    assert [entry["workers"] for entry in record["loaders"]] == [0, 2]
    assert ["plain_copies" in entry for entry in record["loaders"]] == [False, True]
    assert record["loaders"][1]["share_of_plain_copies"]["ratio"] > 0
    assert record["bytes_per_volume"] == 24 * 48 * 48 * 3
    assert record["store"]["training_cases"] == 9
    assert record["demand"]["times_demand"] == pytest.approx(record["volumes_per_s"] / 5)
    assert record["memory"]["batches"] == 8
    assert record["batch_digest"] == record_of(capsys, *WORDS, "--workers", "1")["batch_digest"]


def test_demand_from_a_step_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step = tmp_path / "step.json"
    step.write_text('noise\n{"median_s": 0.5, "samples_per_s": 20, "framework": "jax", "device": {"name": "X"}}\n')
    demand = record_of(capsys, *WORDS, "--workers", "0", "--step-record", str(step))["demand"]
    assert demand["volumes_per_s"] == 20
    assert demand["source"] == "jax X"


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["--workers", "two"], 2, "--workers two"),
        (["--demand", "0"], 2, "--demand"),
        (["--rounds", "1"], 2, "--rounds"),
        (["--scans", "0"], 2, "--scans"),
        (["--step-record", "/nowhere/step.json"], 1, "/nowhere/step.json"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], status: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status([*WORDS, *words]) == status
    assert named in capsys.readouterr().err


def test_random_store_has_more_cases_than_files(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", get_task("ct_rate"), "tiny", cases=7, scans=3)
    assert len(store.split("train")) == 7
    assert store.verify() == []
    volumes = [store.read_crop(i, (0, 0, 0), store.geometry.padded_size)[0] for i in range(7)]
    assert np.array_equal(volumes[1], volumes[4])
    assert not np.array_equal(volumes[0], volumes[1])
    inodes = {(tmp_path / f"store/cases/random_{i:06}.safetensors").stat().st_ino for i in range(7)}
    assert len(inodes) == 3


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_copy_moves_as_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    store = write_random_store(tmp_path / "store", get_task("ct_rate"), "tiny", cases=6, scans=2)
    first = first_batch(store, 2)
    taken = []
    monkeypatch.setattr("os.preadv", lambda _, buffers, __: taken.append(sum(len(memoryview(b)) for b in buffers)))
    PlainCopy(store, first, 3, threads)()
    assert sum(taken) == 3 * (first["volume"].nbytes + first["organs"].nbytes)


def test_loading_without_workers_goes_on_where_it_was(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", get_task("ct_rate"), "tiny", cases=6, scans=2)
    plan = LoadPlan(batch_size=2, round_batches=2)
    steady, anew = Loading(store, plan, 0), Loading(store, plan, 1)
    assert steady() is None
    assert steady() is None
    batches = anew()
    assert batches is not None
    batches.close()
    assert steady._steady is not None
    assert steady._steady.get_state()["step"] == 4


def test_growth_is_the_slope_after_settling() -> None:
    batches = list(range(0, 400, 10))
    flat = [5_000 if number < 100 else 9_000 for number in batches]
    assert memory_growth(batches, flat)["growth_bytes"] == pytest.approx(0, abs=1e-6)
    leaking = memory_growth(batches, [9_000 + 7 * number for number in batches])
    assert leaking["slope_bytes_per_batch"] == pytest.approx(7)
    assert leaking["growth_bytes"] == pytest.approx(7 * 290)


def test_rounds_are_taken_in_turns_and_the_first_is_not_counted() -> None:
    calls: list[str] = []
    found = measure_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "abababab"
    assert [len(found[name].wall_s) for name in "ab"] == [3, 3]


def test_closing_is_not_timed() -> None:
    class Slow:
        closed = 0

        def close(self) -> None:
            Slow.closed += 1
            began = processor_seconds()
            while processor_seconds() - began < 0.1:
                pass

    found = measure_in_turns({"a": Slow}, rounds=2)["a"]
    assert Slow.closed == 3
    assert found.cpu_s.max() < 0.1


def test_interval_of_a_ratio_keeps_rounds_together() -> None:
    rng = np.random.default_rng(0)
    busy = rng.exponential(size=40) + 0.5
    found = ratio_with_interval(2 * busy, busy)
    assert found["ratio"] == pytest.approx(2)
    assert found["ci95"] == pytest.approx([2, 2])


def test_rates_count_volumes_per_second() -> None:
    found = measure_in_turns({"a": lambda: None}, rounds=3)["a"]
    found = type(found)(np.array([2.0, 2.0, 2.0]), np.array([0.5, 0.5, 0.5]))
    assert rates(found, 10)["volumes_per_s"] == 5
    assert rates(found, 10)["volumes_per_s_per_core"] == 20
