"""The records of `bench prepare`, `bench train` and `bench scaling`, and the model behind the prediction."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from exit_status import exit_status
from record_schema import assert_valid

from anatobench.bench.all_reduce import measured_links
from anatobench.bench.communication_model import Links, StepCost, communication_seconds, predict
from anatobench.bench.local_processes import own_cores
from anatobench.bench.scaling import run_processes
from anatobench.bench.scaling_process import StepSettings
from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError

LINKS = Links(devices_per_node=8, node_bandwidth=400e9, network_bandwidth=50e9, node_latency=1e-6, network_latency=1e-5)


def record_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return record


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_prepare_record(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "prepare", "--dataset", "ct_rate", "--size", "tiny", "--cases", "1", "--rounds", "2"]
    record = record_of(capsys, *words, "--workers", "0,1")
    assert_valid(record, "prepare")
    assert record["data"]["volumes"] == 2
    assert [entry["workers"] for entry in record["results"]] == [0, 1]
    assert record["results"][1]["efficiency"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_train_record(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the framework whose steps end after their call."""
    pytest.importorskip("flax")
    words = ["bench", "train", "--geometry", "chest", "--size", "tiny", "--cases", "6", "--scans", "2"]
    words += ["--framework", "jax", "--model", "r3d_18", "--batch-size", "2", "--rounds", "2", "--steps", "2"]
    record = record_of(capsys, *words)
    assert_valid(record, "train")
    times = {name: record[name]["seconds_per_step"] for name in ("same_batch", "loading_alone")}
    assert record["bottleneck"] == ("loading" if times["loading_alone"] > times["same_batch"] else "device")
    assert record["with_loading"]["samples_per_s"] == pytest.approx(2 / record["with_loading"]["seconds_per_step"])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    assert main(words) == 1
    assert "this job has GPUs (SLURM_GPUS_ON_NODE=2)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_scaling_record_of_two_processes(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip({"torch": "torch", "jax": "flax"}[framework])
    words = ["bench", "scaling", "--framework", framework, "--model", "r3d_18", "--geometry", "chest", "--size", "tiny"]
    record = record_of(capsys, *words, "--batch-size", "2", "--processes", "2", "--mode", "strong", "--repeats", "2")
    assert_valid(record, "scaling")
    alone, entry = record["results"]
    assert (alone["processes"], alone["efficiency"]) == (1, 1)
    assert (entry["mode"], entry["processes"], entry["global_batch"]) == ("strong", 2, 2)
    inputs = record["prediction"]["inputs"]
    assert inputs["small_sums"] > 0
    assert inputs["gradient_bytes"] > 1e5
    assert [row["devices"] for row in record["prediction"]["predictions"]] == [2, 8, 64, 512]
    assert (entry["nodes"], record["measured_links"][0]) == (1, "node_latency")
    sums = record["all_reduce"]
    assert {row["bytes"] for row in sums} == {4, 1 << 20, 1 << 24, inputs["gradient_bytes"]}
    assert all(row["bus_bandwidth"] == pytest.approx(row["bytes"] / row["median_s"]) for row in sums)


def point(processes: int, nodes: int, seconds: dict[int, float]) -> dict[str, Any]:
    return {"processes": processes, "nodes": nodes,
            "all_reduce": [{"bytes": size, "seconds": [took] * 3} for size, took in seconds.items()]}  # fmt: skip


def test_links_by_hand() -> None:
    """A tree of two processes is two messages, of eight six; a ring of two sends every byte once."""
    within = point(2, 1, {4: 2e-5, 1 << 20: 1e-4, 100_000_004: 0.00102})
    between = point(8, 4, {4: 6e-4, 100_000_004: 0.0356})
    found, measured = measured_links([point(1, 1, {}), within, between], LINKS)
    assert found.node_latency == pytest.approx(1e-5)
    assert found.node_bandwidth == pytest.approx(1e8 / 0.001)
    assert found.network_latency == pytest.approx(1e-4)
    assert found.network_bandwidth == pytest.approx(2 * 7 / 8 * 1e8 / 0.035)
    assert found.devices_per_node == 2
    assert set(measured) == {field.name for field in fields(Links)}
    found, measured = measured_links([within], LINKS)
    assert (found.network_bandwidth, found.devices_per_node) == (LINKS.network_bandwidth, LINKS.devices_per_node)
    assert measured == ["node_latency", "node_bandwidth"]


def test_every_process_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {9, 3, 5, 7}, raising=False)
    assert [own_cores(index, 2) for index in range(3)] == [{3, 5}, {7, 9}, {3, 5}]
    assert own_cores(0, 4) == {3, 5, 7, 9}


def test_a_process_that_fails_is_named() -> None:
    settings = StepSettings("torch", "r3d_18", "tiny", "no_such_task", 2, "fp32", True, 2)
    with pytest.raises(AnatoBenchError, match=r"process [01] of 2: .*no_such_task"):
        run_processes(settings, 2, threads=1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--processes", "3", "--batch-size", "4"], "--batch-size 4"),
        (["--processes", "0"], "--processes"),
        (["--network-bandwidth", "0"], "--network-bandwidth"),
        (["--repeats", "1"], "--repeats"),
    ],
)
def test_impossible_scaling_is_refused(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "scaling", "--framework", "torch", "--model", "r3d_18", "--geometry", "chest"]
    assert exit_status([*arguments, *words]) == 2
    assert named in capsys.readouterr().err


def test_points_of_other_settings_or_without_a_single_process_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "scaling", "--framework", "torch", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny"]
    settings = StepSettings("torch", "r3d_18", "tiny", "ct_rate", 8, "fp32", True, 20)
    stored = {"kind": "scaling_point", "settings": {**asdict(settings), "modes": ["weak", "strong"]}, "processes": 2}
    (tmp_path / "2.json").write_text(json.dumps(stored))
    for further, said in (
        (["--batch-size", "4"], "2.json: was measured with batch_size 8, here it is 4"),
        ([], "no point of a single process"),
    ):
        assert main([*words, *further, "--points", str(tmp_path / "2.json")]) == 1
        assert said in capsys.readouterr().err
    (tmp_path / "2.json").write_text("[]")
    assert main([*words, "--points", str(tmp_path / "2.json")]) == 1
    assert "no point that" in capsys.readouterr().err


def test_ring_by_hand() -> None:
    cost = StepCost(step_s=0.1, gradient_bytes=400_000_000, small_sums=3)
    assert communication_seconds(cost, LINKS, 1) == (0, 0)
    ring, small = communication_seconds(cost, LINKS, 8)
    assert ring == pytest.approx(14 * 1e-6 + 2 * 7 / 8 * 400e6 / 400e9)
    assert small == pytest.approx(3 * 2 * 3 * 1e-6)
    ring, small = communication_seconds(cost, LINKS, 16)
    assert ring == pytest.approx(30 * 1e-5 + 2 * 15 / 16 * 400e6 / 50e9)
    assert small == pytest.approx(3 * 2 * 4 * 1e-5)


def test_overlap_hides_no_more_than_the_backward_pass() -> None:
    slow = Links(devices_per_node=1, network_bandwidth=1e9, network_latency=1e-9)
    cost = StepCost(step_s=0.03, gradient_bytes=100_000_000)
    found = predict(cost, slow, 8)
    ring = found["all_reduce_s"]
    assert found["no_overlap"]["step_s"] == pytest.approx(0.03 + ring)
    assert found["full_overlap"]["step_s"] == pytest.approx(0.03 + ring - 0.02)
    quick = predict(StepCost(step_s=10.0, gradient_bytes=100_000_000), slow, 8)
    assert quick["full_overlap"]["efficiency"] == pytest.approx(1)


def test_efficiency_falls_with_devices() -> None:
    cost = StepCost(step_s=0.1, gradient_bytes=130_000_000, small_sums=40)
    rows = [predict(cost, LINKS, count) for count in (1, 8, 64, 512)]
    for overlap in ("no_overlap", "full_overlap"):
        found = [row[overlap]["efficiency"] for row in rows]
        assert found[0] == 1
        assert found == sorted(found, reverse=True)
