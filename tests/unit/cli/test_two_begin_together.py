"""Two `train`s that start in one moment on one folder leave the first one's run, whichever that is."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import pytest
from numpy_engine import use_numpy_engines
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main

TIMES = int(os.environ.get("ANATOBENCH_RACES", "10"))
"""Set to 50 or more for the long form."""
RATES = (0.05, 0.025)


def begin(store: Path, run: Path, rate: float, start: int) -> int:
    """Fork a process that trains when something can be read from `start`; its id. What it says lies beside the run."""
    pid = os.fork()
    if pid:
        return pid
    status = 9
    try:
        sys.stderr = run.with_name(f"{run.name}_{rate}.txt").open("w")
        os.read(start, 1)
        status = main(["train", "--task", FINDINGS.name, "--store", str(store), "--model", "r3d_18", "--framework",
                       "torch", "--set", "batch_size=2", "--set", f"learning_rate={rate}", "--epochs", "1", "--out",
                       str(run), "--resume"])  # fmt: skip
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def test_the_second_changes_nothing_of_the_firsts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)
    store = tmp_path / "store"
    write_store(store)
    for number in range(TIMES):
        run = tmp_path / f"run_{number}"
        gate, opened = os.pipe()
        pids = {rate: begin(store, run, rate, gate) for rate in RATES}
        os.write(opened, b"go")
        ended = {rate: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for rate, pid in pids.items()}
        os.close(gate)
        os.close(opened)
        said = {rate: run.with_name(f"{run.name}_{rate}.txt").read_text() for rate in RATES}
        assert sorted(ended.values()) == [0, 1], said
        (first,) = [rate for rate in RATES if ended[rate] == 0]
        (second,) = [rate for rate in RATES if ended[rate] == 1]
        *_, why = said[second].strip().splitlines()
        assert "another process is training this run" in why or "holds a run with another configuration" in why
        assert json.loads((run / "config.json").read_text())["recipe"]["learning_rate"] == first
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rates = [step["learning_rate"] for step in steps if step["kind"] == "step"]
        assert len(rates) == 4
        assert max(rates) == first
        assert len((run / "sessions.jsonl").read_text().splitlines()) == 1
