"""Arms whose frameworks live elsewhere: other interpreters, processes that were started already, images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from framework_environments import environment_with

from anatobench.bench.arm_homes import Image, Started
from anatobench.bench.arms import Arm
from anatobench.bench.step import StepBenchmark, bench_step
from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
TASK = TASKS["ct_rate"]
SPEC = ModelSpec("r3d_18", "tiny", TASK, TASK.geometry("tiny").crop_size)
COMMAND = ["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", "--batch-size", "1"]


@pytest.mark.slow
def test_two_interpreters_with_a_framework_each_take_turns(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    homes = {name: environment_with(name, tmp_path / name) / "bin" / "python" for name in ("torch", "jax")}
    neither = tmp_path / "neither"
    neither.mkdir()
    for name in homes:
        (neither / f"{name}.py").write_text("raise SystemExit('the measuring process needs no framework')\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from anatobench.cli.main import main; sys.exit(main())"
    options = [word for name, python in homes.items() for word in ("--python", f"{name}={python}")]
    done = subprocess.run(
        [sys.executable, "-c", code, neither, *COMMAND, *options, "--repeats", "3", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert [arm["home"] for arm in record["arms"]] == [{"python": str(python)} for python in homes.values()]
    assert record["same_first_loss"] is True
    assert len({arm["batch_digest"] for arm in record["arms"]}) == 1
    (ratio,) = record["ratios"]
    assert (ratio["of"], ratio["to"]) == ("jax", "torch")
    assert ratio["ci95"][0] <= ratio["ratio"] <= ratio["ci95"][1]


def test_a_process_that_was_started_already_is_asked_through_its_pipes(tmp_path: Path) -> None:
    for name in ("requests", "answers"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "home.json").write_text('{"image": "there.sif", "sha256": "00"}')
    script = f"exec {sys.executable} -m anatobench.bench.arm_process <requests >answers 2>log"
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=_with_code())
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "slow", home=Started(tmp_path)))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2))
    assert [arm["home"] for arm in record["arms"]] == [None, {"image": "there.sif", "sha256": "00"}]
    assert record["same_first_loss"] is True
    assert process.wait(20) == 0, "it ends with the measurement"


def test_a_started_process_that_dies_is_a_failed_arm(tmp_path: Path) -> None:
    for name in ("requests", "answers"):
        os.mkfifo(tmp_path / name)
    script = "exec 0<requests 1>answers 2>log; echo 'no such image' >&2; exit 3"
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path)
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "slow", home=Started(tmp_path)))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2))
    assert "its process died: no such image" in record["failed"]["numpy_peer:slow"]["error"]
    assert process.wait(20) == 3


def test_an_image_is_run_where_its_own_code_is_found_and_is_named_with_its_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "torch.sif"
    image.write_bytes(b"an image")
    program = tmp_path / "singularity"
    program.write_text("#!/bin/true\n")
    program.chmod(0o755)
    monkeypatch.setenv("ANATOBENCH_CONTAINER", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    words = Image(image).words(tmp_path / "batch")
    assert words[:3] == [str(program), "exec", "--nv"]
    assert {f"--bind={tmp_path / 'batch'}", f"--pwd={tmp_path / 'batch'}"} <= set(words)
    assert words[-4:] == [str(image), "python", "-m", "anatobench.bench.arm_process"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "--nv" not in Image(image).words(tmp_path)
    assert Image(image).to_json() == {
        "image": str(image),
        "sha256": "a5df3fde7b200c3fa2791144c7e05c5c2bced4c6ad863d3a4cf76c972c1712f9",
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--image", "torch=/nowhere.sif"], "/nowhere.sif: not there"),
        (["--python", f"torch={sys.executable}", "--image", f"torch={sys.executable}"], "has a place already"),
        (["--started", "torch=/tmp", "--both-seg"], "one arm"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANATOBENCH_CONTAINER", "true")
    assert main([*COMMAND, *options]) == 2
    assert complaint in capsys.readouterr().err


def _with_code() -> dict[str, str]:
    code = str(Path(__file__).parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))}
