"""Two `train`s that start in one moment on one folder leave the first one's run, whichever that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_store import FINDINGS, write_store

TIMES = int(os.environ.get("ANATOBENCH_RACES", "50"))
"""How often they start; more is a longer search."""
RATES = (0.05, 0.025)


CHILD = """
import json, sys, traceback
from contextlib import redirect_stdout
from pytest import MonkeyPatch
from numpy_engine import use_numpy_engines
from anatobench.cli.main import main

use_numpy_engines(MonkeyPatch())
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open(request["said"], "w") as sys.stderr, redirect_stdout(sys.stderr):
        try:
            status = main(request["words"])
        except BaseException:
            traceback.print_exc()
            status = 9
    print(status, flush=True)
"""


@pytest.fixture
def children(begins_at_once: None) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that wait for words to train with: what they have to import does not part their beginnings."""
    path = os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=environment)
        for _ in RATES
    ]  # fmt: skip
    for child in started:
        assert answer(child) == "ready"
    yield started
    for child in started:
        child.kill()
        child.communicate()


def answer(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def begin(child: subprocess.Popen[str], store: Path, run: Path, rate: float) -> None:
    words = ["train", "--task", FINDINGS.name, "--store", str(store), "--model", "r3d_18", "--framework", "torch",
             "--set", "batch_size=2", "--set", f"learning_rate={rate}", "--epochs", "1", "--out", str(run),
             "--resume"]  # fmt: skip
    assert child.stdin is not None
    child.stdin.write(json.dumps({"words": words, "said": str(said_by(run, rate))}) + "\n")
    child.stdin.flush()


def said_by(run: Path, rate: float) -> Path:
    return run.with_name(f"{run.name}_{rate}.txt")


@pytest.mark.slow
def test_the_second_changes_nothing_of_the_firsts_run(tmp_path: Path, children: list[subprocess.Popen[str]]) -> None:
    store = tmp_path / "store"
    write_store(store)
    for number in range(TIMES):
        run = tmp_path / f"run_{number}"
        for child, rate in zip(children, RATES, strict=True):
            begin(child, store, run, rate)
        ended = {rate: int(answer(child)) for child, rate in zip(children, RATES, strict=True)}
        said = {rate: said_by(run, rate).read_text() for rate in RATES}
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
