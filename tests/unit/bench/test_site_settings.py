"""What slurm/site.conf's `sbatch` asks for, with a program that writes down what it was given: no cluster is needed."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILLED_IN = {
    "ANATOBENCH_ACCOUNT": "lab", "ANATOBENCH_PARTITION": "gpu", "ANATOBENCH_PARTITION_CPU": "cpu",
    "ANATOBENCH_QOS": "long", "ANATOBENCH_GPUS_PER_NODE": "4", "ANATOBENCH_GPU_TYPE": "h100",
    "ANATOBENCH_CONSTRAINT": "nvlink", "ANATOBENCH_MEMORY": "200G", "ANATOBENCH_CPUS_PER_GPU": "8",
    "ANATOBENCH_TIME_LIMIT": "12:00:00",
}  # fmt: skip


def asked(line: str, folder: Path, **settings: str) -> tuple[list[str], dict[str, str]]:
    """Return the words and the SBATCH variables that the real `sbatch` would be given."""
    program = folder / "bin" / "sbatch"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\necho --\nenv | grep ^SBATCH_ || true\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "ANATOBENCH_"))}
    done = subprocess.run(
        ["bash", "-c", f"source slurm/site.conf && {line}"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**kept, **settings, "PATH": f"{program.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    words, _, variables = done.stdout.partition("--\n")
    return words.splitlines(), dict(one.split("=", 1) for one in variables.splitlines())


def test_everything_that_is_filled_in_is_asked_for(tmp_path: Path) -> None:
    _, variables = asked("sbatch slurm/train_ratic.sh", tmp_path, **FILLED_IN)
    assert variables == {
        "SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "gpu", "SBATCH_QOS": "long", "SBATCH_CONSTRAINT": "nvlink",
        "SBATCH_GPUS_PER_NODE": "h100:4", "SBATCH_MEM_PER_NODE": "200G", "SBATCH_CPUS_PER_GPU": "8",
        "SBATCH_TIMELIMIT": "12:00:00",
    }  # fmt: skip
    assert asked("sbatch slurm/train_ratic.sh", tmp_path)[1] == {}, "what is empty is the cluster's own"


def test_a_job_that_needs_no_gpu_asks_for_none(tmp_path: Path) -> None:
    _, variables = asked("sbatch --array=0-3 slurm/prepare.sh --dataset ratic", tmp_path, **FILLED_IN)
    assert variables["SBATCH_PARTITION"] == "cpu"
    assert not {"SBATCH_GPUS_PER_NODE", "SBATCH_CPUS_PER_GPU", "SBATCH_CONSTRAINT"} & set(variables)


@pytest.mark.parametrize(
    ("line", "gpus"),
    [
        ("slurm/compare.sh --model r3d_18", "h100:1"),
        ("slurm/compare.sh --gpus 2 --model r3d_18", "h100:2"),
        ("slurm/compare.sh --model r3d_18 --gpus=4", "h100:4"),
        ("slurm/gpu_suite.sh --gpus 2", "h100:1"),
        ("slurm/scaling.sh --nodes 1,2", "h100:4"),
    ],
)
def test_a_measurement_gets_the_gpus_that_it_measures(line: str, gpus: str, tmp_path: Path) -> None:
    assert asked(f"sbatch {line}", tmp_path, **FILLED_IN)[1]["SBATCH_GPUS_PER_NODE"] == gpus


def test_scaling_gets_the_most_nodes_that_it_measures(tmp_path: Path) -> None:
    for written in ("--nodes 2,16,4", "--nodes=2,16,4"):
        words, _ = asked(f"sbatch --parsable slurm/scaling.sh {written} --model r3d_18", tmp_path)
        assert words[:3] == ["--nodes=16", "--parsable", "slurm/scaling.sh"]
    words, _ = asked("sbatch --nodes 2 slurm/train_ratic.sh --steps 4", tmp_path)
    assert words == ["--nodes", "2", "slurm/train_ratic.sh", "--steps", "4"]


def test_compiled_programs_go_where_the_site_has_scratch(tmp_path: Path) -> None:
    line = "echo $ANATOBENCH_COMPILE_CACHE && sbatch"
    for settings, folder in (
        ({"ANATOBENCH_SCRATCH": "/scratch/me"}, "/scratch/me/anatobench-compiled"),
        ({"ANATOBENCH_SCRATCH": "/scratch/me", "ANATOBENCH_COMPILE_CACHE": "off"}, "off"),
        ({}, ""),
    ):
        assert asked(line, tmp_path, **settings)[0][0] == folder


SCRIPTS = sorted(
    script
    for script in (*(ROOT / "slurm").glob("*.sh"), *(ROOT / "containers").glob("*.sh"))
    if os.access(script, os.X_OK) and "\nset -euo pipefail\n" in script.read_text()
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_help_is_what_the_scripts_first_comment_says(script: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run([script, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    comment = script.read_text().partition("\nset -euo pipefail\n")[0].splitlines()
    assert done.stdout.splitlines() == [line[2:] for line in comment if line.startswith("# ") or line == "#"]
