"""Arms whose frameworks live elsewhere: other interpreters, processes that were started already, images."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from framework_environments import environment_with

from anatobench.bench.arm_homes import Image, Served
from anatobench.bench.arms import Arm
from anatobench.bench.flops import count
from anatobench.bench.random_batch import random_batch
from anatobench.bench.step import StepBenchmark, bench_step
from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
TASK = TASKS["ct_rate"]
SPEC = ModelSpec("r3d_18", "tiny", TASK, (8, 16, 16))
KEYS = {"median_s", "ci95_s", "samples_per_s", "model_flops_per_step", "mfu", "peak_memory_bytes", "compile_s"}
KEYS |= {"device", "versions", "batch_digest"}
COMMAND = ["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", "--batch-size", "1"]


@pytest.mark.slow
def test_two_interpreters_with_a_framework_each_measure_the_same_work(tmp_path: Path) -> None:
    """By a process that needs neither, where nothing is installed of what a node without data sets lacks."""
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    homes = {name: environment_with(name, tmp_path / name) / "bin" / "python" for name in ("torch", "jax")}
    neither, lacking = tmp_path / "neither", tmp_path / "lacking"
    neither.mkdir()
    for name in homes:
        (neither / f"{name}.py").write_text("raise SystemExit('the measuring process needs no framework')\n")
    lacking.mkdir()
    for name in ("grain", "orbax", "nibabel", "pydicom", "isal", "monai", "tensorboard"):
        (lacking / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is blocked', name='{name}')\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from anatobench.cli.main import main; sys.exit(main())"
    options = [word for name, python in homes.items() for word in ("--python", f"{name}={python}")]
    path = os.pathsep.join(filter(None, (str(lacking), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", code, neither, *COMMAND, *options, "--batch-size", "2", "--repeats", "2", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert set(record) >= KEYS
    assert [arm["name"] for arm in record["arms"]] == ["torch", "jax"]
    assert [arm["home"] for arm in record["arms"]] == [{"python": str(python)} for python in homes.values()]
    assert record["same_first_loss"] is True
    assert (record["failed"], record["passed"]) == ({}, True)
    spec = replace(SPEC, crop_size=TASK.geometry("tiny").crop_size)
    digest = random_batch(spec, 2, seed=0).digest()
    for arm in record["arms"]:
        low, high = arm["ci95_s"]
        assert 0 < low <= arm["median_s"] <= high
        assert arm["model_flops_per_step"] == 2 * count(spec).training
        assert arm["samples_per_s"] == pytest.approx(2 / arm["median_s"])
        assert arm["mfu"] == pytest.approx(arm["model_flops_per_step"] / arm["median_s"] / record["ceiling_flops"])
        assert arm["compile_s"] > 0
        assert arm["peak_memory_bytes"] > 1e8
        assert arm["batch_digest"] == digest
    assert record["mfu_of"] == "measured matrix product"
    assert record["mfu"] == record["mfu_measured"]
    assert record["mfu_data_sheet"] is None, "a CPU has none"
    (ratio,) = record["ratios"]
    assert (ratio["of"], ratio["to"]) == ("jax", "torch")
    assert ratio["ci95"][0] <= ratio["ratio"] <= ratio["ci95"][1]


SERVE = """
exec 9<>pipe
while read -r what folder <&9; do
  echo "$what $folder" >>asked
  mapfile -t variables <"$folder/environment"
  [ $what = stop ] && { kill -9 $!; continue; }
  env "${variables[@]}" COMMAND <"$folder/requests" >"$folder/answers" 2>"$folder/log" 9>&- &
done
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], Served]]:
    """Return what begins to listen at a pipe and starts that command for everybody who asks."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe.json").write_text('{"image": "there.sif", "sha256": "00"}')
    listening: list[subprocess.Popen[bytes]] = []

    def listen(command: str) -> Served:
        script = SERVE.replace("COMMAND", command)
        listening.append(subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=_with_code()))
        while not Path(f"/proc/{listening[-1].pid}/fd/9").exists():
            time.sleep(0.01)
        return Served(tmp_path / "pipe")

    yield listen
    for process in listening:
        process.kill()
        process.wait()


def test_a_process_is_started_by_who_listens_and_asked_through_its_pipes(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    home = served(f"{sys.executable} -m anatobench.bench.arm_process")
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "slow", home=home), Arm(None, PEER, "caches", home=home))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2, cache=tmp_path / "cache"))
    assert [arm["home"] for arm in record["arms"]] == [None, *[{"image": "there.sif", "sha256": "00"}] * 2]
    assert record["same_first_loss"] is True
    assert (tmp_path / "cache" / "numpy_peer_caches" / "program").exists(), "it has the arm's own environment"
    assert "stop" not in (tmp_path / "asked").read_text(), "they end with the measurement"


def test_a_served_process_that_dies_is_a_failed_arm(served: Callable[[str], Served]) -> None:
    home = served("""bash -c 'echo "no such image" >&2; exit 3'""")
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "slow", home=home))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2))
    assert "its process died: no such image" in record["failed"]["numpy_peer:slow"]["error"]


@pytest.mark.slow
def test_a_served_process_that_takes_too_long_is_ended_by_who_started_it(
    served: Callable[[str], Served], tmp_path: Path
) -> None:
    home = served(f"{sys.executable} -m anatobench.bench.arm_process")
    arms = (Arm(None, PEER, "plain"), Arm(None, PEER, "hangs", home=home))
    record = bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2, seconds=9))
    assert "it was not ready" in record["failed"]["numpy_peer:hangs"]["error"]
    assert "stop" in (tmp_path / "asked").read_text()


def test_where_nobody_listens_it_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    arms = (Arm(None, PEER, "plain", home=Served(tmp_path / "pipe")),)
    with pytest.raises(AnatoBenchError, match="nobody listens there"):
        bench_step(StepBenchmark(arms, SPEC, Recipe(batch_size=1), rounds=2))


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
        (["--served", "torch=/nowhere"], "/nowhere: not there"),
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
