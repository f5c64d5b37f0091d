"""Arms of several processes: one answer, one failure, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from record_schema import assert_valid

from anatobench.bench.arm_group import Group
from anatobench.bench.arms import Arm, ArmProcess
from anatobench.bench.random_batch import random_batch, write_batch
from anatobench.bench.step import StepBenchmark, bench_step, build_request
from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

SUPPORT = Path(__file__).parents[2] / "support"
SPEC = ModelSpec("r3d_18", "tiny", TASKS["ct_rate"], (8, 16, 16))
MEMBER = """
import json, os, sys, time
rank = int(os.environ["RANK"])
for line in sys.stdin:
    asked = json.loads(line)["do"]
    if asked == "figures":
        said = {"seconds": [rank, 2 - rank], "peak_memory_bytes": 10 * (rank + 1), "batch_digest": "b", "compile_s": 3,
                "matrix_product_flops": 5 - rank, "total_memory_bytes": None, "first_loss": rank}
    elif asked == "digest":
        said = {"batch_digest": str(rank)}
    elif rank == 1 and asked == "dies":
        time.sleep(0.3)
        os.kill(os.getpid(), 9)
    elif rank == 1 and asked == "starves":
        said = {"error": "MemoryError: no more", "out_of_memory": True}
    elif asked == "starves":
        said = {"error": "the connection was closed", "out_of_memory": False}
    else:
        time.sleep(1000)
    print(json.dumps(said), flush=True)
"""


def group(count: int = 2) -> Group:
    return Group(count, [sys.executable, "-c", MEMBER])


def test_one_answer_with_the_slowest_times_and_the_largest_memory() -> None:
    with group() as members:
        assert members.answer({"do": "figures"}) == {
            "seconds": [1, 2], "peak_memory_bytes": 20, "batch_digest": "b", "compile_s": 3,
            "matrix_product_flops": 4, "total_memory_bytes": None, "first_loss": 0,
        }  # fmt: skip
        assert "different values of batch_digest" in members.answer({"do": "digest"})["error"]


@pytest.mark.parametrize(
    ("asked", "said", "starved"),
    [
        ("dies", "process 1 of 2: its process died (exit status -9)", True),
        ("starves", "process 1 of 2: MemoryError: no more", True),
    ],
)
def test_the_cause_of_a_failure_is_told_at_once_and_for_good(asked: str, said: str, starved: bool) -> None:
    """Process 0 waits for ever for the one that died, or tells what it noticed of the one that lacked memory."""
    with group() as members:
        for _ in range(2):
            assert members.answer({"do": asked}) == {"error": said, "out_of_memory": starved}
        assert all(member.returncode is not None for member in members._members)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_members_end_with_the_process_that_asks_them(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anatobench.bench.arm_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    arm = Arm(None, SUPPORT / "numpy_peer.py", "hangs", processes=2)
    ask_to_hang(process, arm, tmp_path)
    members = children(process.pid)
    assert len(members) == 2
    process.send_signal(number)
    process.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(alive(member) for member in members):
        assert time.monotonic() < deadline, "members are left"
        time.sleep(0.05)


def ask_to_hang(process: subprocess.Popen[bytes], arm: Arm, folder: Path) -> None:
    """Let the members build the peer, then begin a step that does not end."""
    write_batch(random_batch(SPEC, 2, 0), folder)
    assert process.stdin is not None
    assert process.stdout is not None
    first = {"do": "describe", **build_request(arm, SPEC, Recipe(batch_size=2), folder)}
    process.stdin.write(json.dumps(first).encode() + b"\n")
    process.stdin.flush()
    assert "error" not in json.loads(process.stdout.readline())
    process.stdin.write(b'{"do": "prepare", "warm_up": 1}\n')
    process.stdin.flush()
    time.sleep(0.5)


def children(process: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_same_bytes(preloaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As their first losses tell: each takes its half, BatchNorm's statistics are those of both."""
    pytest.importorskip("torch")
    monkeypatch.setattr(sys, "executable", str(preloaded))
    recipe = Recipe(batch_size=2, precision="fp64", dropout=False)
    alone, together = (
        bench_step(StepBenchmark((Arm("torch", processes=count),), SPEC, recipe, rounds=2)) for count in (1, 2)
    )
    assert_valid(together, "step")
    assert (alone["processes"], together["processes"], together["device"]["count"]) == (1, 2, 2)
    assert together["batch_digest"] == alone["batch_digest"]
    assert together["first_loss"] == pytest.approx(alone["first_loss"], rel=1e-9)
    assert together["last_loss"] == pytest.approx(alone["last_loss"], rel=1e-6)
    assert together["ceiling_flops"] == pytest.approx(2 * together["matrix_product_flops"])


@pytest.mark.slow
def test_an_arm_whose_member_dies_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    arms = tuple(Arm(None, SUPPORT / "numpy_peer.py", name, processes=2) for name in ("plain", "starved"))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=2), rounds=2))
    assert [arm["name"] for arm in record["arms"]] == ["numpy_peer:plain"]
    failed = record["failed"]["numpy_peer:starved"]
    assert failed["out_of_memory"]
    assert failed["error"].startswith("process ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--gpus", "2", "--batch-size", "3"], "--gpus 2: 3 cases cannot be shared out evenly"),
        (["--gpus", "2", "--batch-size", "2", "--peer", f"{SUPPORT}/numpy_peer.py:plain"], "peers know one GPU"),
        (["--gpus", "4", "--batch-size", "4"], "--gpus 4: 2 GPU(s) visible here"),
    ],
)
def test_impossible_gpus_are_refused(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    command = ["bench", "step", "--framework", "torch", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny"]
    assert main([*command, *words]) == 2
    assert complaint in capsys.readouterr().err
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_members_end_with_the_measurement(tmp_path: Path) -> None:
    arm = Arm(None, SUPPORT / "numpy_peer.py", "plain", processes=2)
    with ArmProcess(arm, tmp_path, 0) as process:
        assert process._process is not None
        ask = build_request(arm, SPEC, Recipe(batch_size=2), tmp_path)
        write_batch(random_batch(SPEC, 2, 0), tmp_path)
        process.ask("describe", **ask)
        members = children(process._process.pid)
    assert not any(alive(member) for member in members)
