"""The Slurm job of the GPU suite, with an `srun` that says what it was given: one task, both frameworks, going on."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in {
        "python": "exit ${MISSING:-0}",
        "srun": f'printf "%s\\n" "$@" >{tmp_path}/srun; exit $STATUS',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "16", "SLURM_GPUS_ON_NODE": "4"}
    own = {"ANATOBENCH_VENV": str(programs.parent), "ANATOBENCH_RUNS": str(tmp_path / "runs")}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "ANATOBENCH_REPOSITORY": str(ROOT), "STATUS": "0"}
    return {**job, **own, **path}


def submit(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "slurm" / "gpu_suite.sh"
    return subprocess.run([script, *words], env=environment, cwd="/", capture_output=True, text=True)


def test_one_task_with_one_gpu_that_goes_on_where_it_was(tmp_path: Path, environment: dict[str, str]) -> None:
    done = submit(environment, "--geometry", "abdomen")
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "srun").read_text().splitlines()
    assert {"--ntasks=1", "--gpus-per-node=1", "--cpus-per-task=16"} <= set(given)
    command = given[given.index(str(ROOT / "benchmarks" / "gpu_suite.sh")) :]
    assert command[1:] == ["--geometry", "abdomen", "--continue", "--out", str(tmp_path / "runs" / "gpu_suite-7.json")]
    assert any(word.startswith(f"PATH={tmp_path}/venv/bin:") for word in given)


def test_a_missing_part_and_a_missing_framework_are_failures(environment: dict[str, str]) -> None:
    assert submit({**environment, "STATUS": "1"}).returncode == 1
    alone = submit({**environment, "MISSING": "1"})
    assert alone.returncode == 2
    (line,) = alone.stderr.splitlines()
    assert "has not both frameworks" in line
