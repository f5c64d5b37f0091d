"""SIGTERM, which a cluster sends before it kills, ends a command with all its descendants and leaves nothing half
written: each command that starts processes is stopped at work."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from forked_python import ForkedPython
from kept_checkpoints import begun_run
from scan_files import AFFINE, body_voxels
from tiny_store import FINDINGS

from anatobench.cli.main import main
from anatobench.recipes import Recipe
from anatobench.training.run_folder import RunConfig
from anatobench.volumes.nifti import write_nifti

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")

ANATOBENCH = ("-m", "anatobench")
GOES_ON = "stopped by SIGTERM: the same command goes on where it was"
SEGMENTING = """
import sys, types
from pathlib import Path
from anatobench.cli import masks
from anatobench.cli.main import main
from stand_in_segmenter import ThresholdSegmenter
masks.weights.find_or_download = lambda: types.SimpleNamespace(version="0", folder=Path("."))
masks.weights.check_digest = lambda found: None
masks.TotalSegmentator = lambda *given: ThresholdSegmenter(fault="wait")
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
SLOW_READING = """
import sys, time
from pytest import MonkeyPatch
from anatobench.prediction import many_scans
from anatobench.cli.main import main
from numpy_engine import use_numpy_engines
use_numpy_engines(MonkeyPatch())
def slow(*given):
    time.sleep(60)
many_scans.read_scan = slow
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, without the ones that only watch over shared memory."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"resource_tracker" not in (entry / "cmdline").read_bytes():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
        except OSError:  # it is gone
            continue
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def at_work(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def stopped(
    words: Sequence[str | Path],
    tmp_path: Path,
    depth: int,
    seconds: float,
    number: signal.Signals = signal.SIGTERM,
    after: str = "",
) -> str:
    """Start Python with `words`, send the signal `seconds` after it has `depth` descendants and has said `after`, and
    see that it ends with all of them; its last line. Who is killed leaves its temporary files, but none of its
    descendants."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = ForkedPython([*map(str, words)], environment)
    try:
        deadline = time.monotonic() + 400
        while len(descendants(process.pid)) < depth or after not in process.errors:
            assert process.poll() is None, process.errors
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(seconds)
        below = descendants(process.pid)
        assert len(below) >= depth, "it was done before it could be stopped"
        process.send_signal(number)
        process.wait(timeout=400)
    finally:
        process.kill()
        process.wait()
    said = process.errors
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    deadline = time.monotonic() + 100
    while left := [pid for pid in below if at_work(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    if number == signal.SIGKILL:
        return ""
    assert [path for path in scratch.iterdir() if not path.name.startswith("torchinductor_")] == []  # PyTorch's cache
    half_written = [path for suffix in (".tmp", ".partial") for path in tmp_path.rglob(f".*{suffix}")]
    assert half_written == []
    return said.replace("\r", "\n").strip().splitlines()[-1]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder of three scans."""
    for number in range(3):
        write_nifti(tmp_path / "scans" / f"{number}.nii.gz", body_voxels(seed=number), AFFINE)
    return tmp_path / "scans"


@pytest.mark.slow
def test_phantom(tmp_path: Path) -> None:
    words = ["phantom", "--format", "ratic", "--size", "tiny", "--cases", "200", "--workers", "2"]
    last = stopped([*ANATOBENCH, *words, "--out", tmp_path / "raw"], tmp_path, depth=2, seconds=1)
    assert last == f"anatobench phantom: {GOES_ON}"


@pytest.mark.slow
def test_prepare(tmp_path: Path) -> None:
    rows = ["scan,case,patient,split,label:x"]
    for number in range(200):
        rows.append(f"scan.nii.gz,c{number},p,train,1")
    (tmp_path / "raw").mkdir()
    voxels = np.repeat(body_voxels((40, 96, 96)), 4, axis=0)
    write_nifti(tmp_path / "raw" / "scan.nii.gz", voxels, AFFINE)
    (tmp_path / "raw" / "manifest.csv").write_text("\n".join(rows) + "\n")
    words: list[str | Path] = [
        "prepare",
        "--dataset",
        "manifest",
        "--raw",
        tmp_path / "raw",
        "--anatomy",
        "chest",
        "--size",
        "tiny",
    ]
    last = stopped([*ANATOBENCH, *words, "--store", tmp_path / "s", "--workers", "2"], tmp_path, depth=2, seconds=1)
    assert last == f"anatobench prepare: {GOES_ON}"


@pytest.mark.slow
def test_masks(tmp_path: Path, scans: Path) -> None:
    (tmp_path / "command.py").write_text(SEGMENTING)
    words: list[str | Path] = [
        tmp_path / "command.py",
        "masks",
        "--raw",
        scans,
        "--out",
        tmp_path / "masks",
        "--gpus",
        "0",
    ]
    assert stopped(words, tmp_path, depth=1, seconds=1) == f"anatobench masks: {GOES_ON}"


@pytest.mark.slow
def test_predict_a_folder(tmp_path: Path, scans: Path) -> None:
    config = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe(seed=5))
    run = begun_run(tmp_path / "run", config)
    assert main(["export", str(run), "--to", str(tmp_path / "model.safetensors")]) == 0
    (tmp_path / "command.py").write_text(SLOW_READING)
    words: list[str | Path] = ["predict", tmp_path / "model.safetensors", "--batch", scans, "--out", tmp_path / "out"]
    last = stopped([tmp_path / "command.py", *words], tmp_path, depth=1, seconds=1)
    assert last == f"anatobench predict: {GOES_ON}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["demo"], ["experiments", "demo"]])
def test_commands_that_call_commands(tmp_path: Path, words: list[str]) -> None:
    """The child has workers of its own: killed at once, it would leave them behind for ever."""
    last = stopped([*ANATOBENCH, *words, "--out", tmp_path / "out"], tmp_path, depth=3, seconds=0.5)
    assert last == f"anatobench {words[0]}: {GOES_ON}"


@pytest.mark.slow
def test_parity(tmp_path: Path) -> None:
    """XLA still executes what the ladder asked for when the command ends."""
    words = [*ANATOBENCH, "parity", "--model", "mvit_v2_s", "--task", "ratic"]
    last = stopped(words, tmp_path, depth=0, seconds=1, after="forward and backward")
    assert last.rpartition("anatobench parity: ")[2] == STOPPED


MODEL = ["--model", "r3d_18", "--geometry", "abdomen", "--size", "tiny"]
STOPPED = "stopped by SIGTERM"
WITH_CHILDREN = {
    "bench prepare": (["bench", "prepare", "--dataset", "ratic", "--size", "tiny", "--cases", "100"], 2, STOPPED),
    "bench step": (["bench", "step", *MODEL, "--framework", "torch", "--repeats", "200"], 1, STOPPED),
    "bench scaling": (
        ["bench", "scaling", "--framework", "torch", *MODEL, "--processes", "2", "--repeats", "200"], 1, STOPPED,
    ),
    "bench memory": (["bench", "memory", *MODEL, "--framework", "torch", "--limit", "2"], 1, STOPPED),
    "experiments transfer demo": (["experiments", "transfer", "demo", "--out", "OUT"], 2, GOES_ON),
    "experiments auc": (["experiments", "auc", "--out", "OUT", "--cases", "40"], 1, GOES_ON),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", WITH_CHILDREN)
def test_commands_with_children(tmp_path: Path, command: str, number: signal.Signals) -> None:
    words, depth, expected = WITH_CHILDREN[command]
    given = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    last = stopped([*ANATOBENCH, *given], tmp_path, depth, seconds=0.2, number=number)
    assert last == ("" if number == signal.SIGKILL else f"anatobench {words[0]}: {expected}")
