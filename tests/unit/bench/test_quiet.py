"""What a record says of other programs: processor, GPU before the start, a slowed clock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from exit_status import exit_status

from anatobench.bench.quiet import OtherWork, busy_before, disturbances, gpu_use
from anatobench.cli.main import main

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"

FAKE = """#!/bin/sh
case "$*" in
  *compute-apps*) [ -n "$PROCESSES" ] && printf "$PROCESSES" ;;
  *utilization.gpu*) echo "${USED:-0, 4}" ;;
esac
exit ${STATUS:-0}
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "nvidia-smi"
    path.write_text(FAKE)
    path.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return str(path)


def test_a_gpu_in_use_is_seen(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_use(1, tool) == {"processes": 0, "utilisation_percent": 0, "memory_mib": 4}
    monkeypatch.setenv("PROCESSES", "12\\n345\\n")
    monkeypatch.setenv("USED", "37, 20480")
    used = gpu_use(1, tool)
    assert used == {"processes": 2, "utilisation_percent": 37, "memory_mib": 20480}
    said = "; ".join(disturbances({"cores": 16, "gpu_before": used}))
    assert "2 other process(es)" in said
    assert "37 % busy" in said
    assert "20480 MiB" in said


def test_the_busiest_of_the_gpus_that_will_be_used_is_told(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("USED", "0, 20480\n37, 4")
    assert gpu_use(2, tool) == {"processes": 0, "utilisation_percent": 37, "memory_mib": 20480}


def test_no_gpu_and_a_driver_that_does_not_tell_are_no_errors(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USED", "[N/A], 4")
    assert gpu_use(1, tool) is None
    monkeypatch.setenv("STATUS", "9")
    assert gpu_use(1, tool) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_use(1, tool) is None
    assert list(disturbances({"cores": 16, "gpu_before": None, "other_cores": None, "gpu": None})) == []


def test_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds the machine worked for 8 s, of which 5 s were this process's and its children's."""
    moments = iter([(100.0, 50.0, 7.0), (110.0, 58.0, 12.0)])
    monkeypatch.setattr(OtherWork, "_now", lambda self: next(moments))
    assert OtherWork().cores() == pytest.approx(0.3)


def test_children_that_ended_count_as_own() -> None:
    """Of this machine, on which others may work: what a child burns does not add to it."""
    others = OtherWork()
    start = others._start
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 1.0: pass"], check=True)
    found, now = others.cores(), others._now()
    if start is None or now is None or found is None:
        pytest.skip("no /proc/stat here")
    seconds, machine, own = (after - before for before, after in zip(start, now, strict=True))
    assert own >= 1.0
    assert machine >= 0.9, "/proc/stat counts seconds as processes do"
    assert found <= machine / seconds - 0.9 / seconds + 0.2


def test_thresholds() -> None:
    assert list(disturbances({"cores": 16, "other_cores": 1.5})) == []
    assert list(disturbances({"cores": 16, "other_cores": 1.7})) == ["other programs kept 1.7 of 16 cores busy"]
    assert list(disturbances({"cores": 2, "other_cores": 0.4})) == []
    assert list(busy_before({"cores": 2, "load_1m": 0.6})) == ["the load was 0.6 on 2 cores before the start"]
    assert list(busy_before({"cores": 16, "load_1m": 0.6})) == []
    hot = {"cores": 2, "gpu": {"throttle_reasons": ["hardware thermal slowdown", "software power cap"]}}
    assert list(disturbances(hot)) == ["the GPU slowed its clock (hardware thermal slowdown, software power cap)"]


def test_only_who_measures_says_that_the_machine_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (900.0, 900.0, 900.0))
    step = ["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", "--batch-size", "1"]
    (tmp_path / "log").write_text("")
    for words in (
        ["bench", "mllog", str(tmp_path / "log")],
        [*step, "--peer", "nowhere.py:plain"],
        ["bench", "load", "--store", str(tmp_path)],
        ["bench", "scaling", "--framework", "torch", "--model", "r3d_18", "--geometry", "chest", "--processes", "0"],
    ):
        assert exit_status(words) in (1, 2)
        assert "warning" not in capsys.readouterr().err, words
    assert main([*step, "--repeats", "2", "--peer", f"{PEER}:plain"]) == 0
    assert "warning: the load was 900.0 on " in capsys.readouterr().err
    load = ["bench", "load", "--geometry", "chest", "--size", "tiny", "--cases", "4", "--scans", "2", "--workers", "0"]
    assert main([*load, "--rounds", "2", "--round-batches", "1"]) == 0
    assert "warning: the load was 900.0 on " in capsys.readouterr().err
