"""`sbatch slurm/compare.sh` and `slurm/gpu_suite.sh`: both frameworks, each from its own environment; one record."""

import json
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, processes_with
from framework_environments import environment_with
from record_schema import assert_valid
from virtual_cluster import VirtualCluster, wait_for

pytest.importorskip("torch")
pytest.importorskip("flax")

TINY = "--model r3d_18 --geometry chest --precision bf16 --size tiny --batch-size 2 --repeats 3"


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an environment for each framework, named after it."""
    folder = tmp_path_factory.mktemp("environments")
    for framework in ("torch", "jax"):
        environment_with(framework, folder / framework)
    return folder


def site(environments: Path, runs: Path) -> dict[str, str]:
    own = {f"ANATOBENCH_VENV_{name.upper()}": str(environments / name) for name in ("torch", "jax")}
    return {**own, "ANATOBENCH_VENV": "/nowhere", "ANATOBENCH_RUNS": str(runs), "ANATOBENCH_DEVICE": "cpu",
            "ANATOBENCH_GPUS_PER_NODE": "4", "ANATOBENCH_CPUS_PER_GPU": "2"}  # fmt: skip


def test_two_environments_give_one_record_of_two_gpus_with_a_ratio(
    cluster: VirtualCluster, environments: Path, tmp_path: Path
) -> None:
    settings = site(environments, tmp_path / "runs")
    line = f"source slurm/site.conf && sbatch --parsable --output={tmp_path}/job.log slurm/compare.sh {TINY} --gpus 2"
    job = cluster.shell(line, settings=settings, cwd=REPOSITORY).strip()
    ended = cluster.finish(job, 900)
    assert ended["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    assert ended["TresPerNode"] == "gres:gpu:2"
    record = json.loads((tmp_path / "runs" / f"compare-{job}.json").read_text())
    assert [arm["home"]["python"] for arm in record["arms"]] == [
        str(environments / framework / "bin" / "python") for framework in ("torch", "jax")
    ]
    assert (record["passed"], record["same_first_loss"]) == (True, True)
    assert (record["processes"], [arm["device"]["count"] for arm in record["arms"]]) == (2, [2, 2])
    (ratio,) = record["ratios"]
    assert (ratio["of"], ratio["to"]) == ("jax", "torch")
    assert ratio["ci95"][0] <= ratio["ratio"] <= ratio["ci95"][1]
    assert "takes" in (tmp_path / "job.log").read_text()


def test_gpus_that_no_framework_can_use_are_no_figures_of_the_cpu(
    cluster: VirtualCluster, environments: Path, tmp_path: Path
) -> None:
    settings = {**site(environments, tmp_path / "runs"), "ANATOBENCH_DEVICE": ""}
    line = f"source slurm/site.conf && sbatch --parsable --output={tmp_path}/job.log slurm/compare.sh {TINY}"
    job = cluster.shell(line, settings=settings, cwd=REPOSITORY).strip()
    assert cluster.finish(job, 300)["ExitCode"] == "1:0"
    said = (tmp_path / "job.log").read_text()
    assert re.search(r"^anatobench bench: torch: this job has GPUs .*; jax: this job has GPUs ", said, re.MULTILINE), (
        said
    )
    assert not (tmp_path / "runs" / f"compare-{job}.json").exists()


def test_the_suite_takes_each_framework_from_its_own_environment(
    cluster: VirtualCluster, environments: Path, tmp_path: Path
) -> None:
    words = ("--size", "tiny", "--models", "r3d_18", "--precision", "fp32", "--batch-size", "1", "--repeats", "2",
             "--peers", "none", "--minutes", "9", "--parts", "step_r3d_18")  # fmt: skip
    line = (
        f"source slurm/site.conf && sbatch --parsable --output={tmp_path}/job.log slurm/gpu_suite.sh {' '.join(words)}"
    )
    job = cluster.shell(line, settings=site(environments, tmp_path / "runs"), cwd=REPOSITORY).strip()
    ended = cluster.finish(job, 900)
    assert ended["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    record = json.loads((tmp_path / "runs" / f"gpu_suite-{job}.json").read_text())
    assert_valid(record, "gpu_suite")
    assert list(record["parts"]) == ["step_r3d_18"]
    step = record["parts"]["step_r3d_18"]["record"]
    assert [arm["home"]["python"] for arm in step["arms"]] == [
        str(environments / framework / "bin" / "python") for framework in ("torch", "jax")
    ]
    assert step["arms"][1]["compile_cache"] == "filled", "JAX's programs were compiled in the first phase"
    assert len(step["ratios"]) == 1


@pytest.mark.parametrize("script", ["compare.sh", "gpu_suite.sh"])
def test_a_job_that_is_stopped_leaves_nobody_behind(
    cluster: VirtualCluster, environments: Path, tmp_path: Path, script: str
) -> None:
    words = {
        "compare.sh": TINY + " --repeats 100000",
        "gpu_suite.sh": "--size tiny --models r3d_18 --precision fp32 --batch-size 1 --peers none --repeats 100000",
    }
    settings = {**site(environments, tmp_path / "runs"), "ANATOBENCH_CPUS_PER_GPU": "1"}
    line = f"source slurm/site.conf && sbatch --parsable --no-requeue --output={tmp_path}/job.log slurm/{script}"
    job = cluster.shell(f"{line} {words[script]}", settings=settings, cwd=REPOSITORY).strip()
    wait_for(lambda: arms_of(tmp_path), 300, "no framework was started")
    cluster.scancel("--batch", "--signal=TERM", job)
    assert cluster.finish(job)["JobState"] in ("FAILED", "CANCELLED"), (tmp_path / "job.log").read_text()
    wait_for(lambda: not arms_of(tmp_path), 60, "a process with a framework is left")


def arms_of(folder: Path) -> list[int]:
    """Ids of the processes with a framework of a job whose settings name that folder."""
    found = []
    for process in processes_with("anatobench.bench.arm_process"):
        with suppress(OSError):  # it just ended
            if str(folder).encode() in Path(f"/proc/{process}/environ").read_bytes():
                found.append(process)
    return found


def test_a_framework_that_is_missing_is_told_before_anything_starts(cluster: VirtualCluster, tmp_path: Path) -> None:
    settings = {"ANATOBENCH_IMAGE_JAX": "/nowhere/jax.sif", "ANATOBENCH_RUNS": str(tmp_path / "runs")}
    script = str(REPOSITORY / "slurm" / "compare.sh")
    job = cluster.submit(f"--output={tmp_path}/job.log", script, *TINY.split(), settings=settings)
    assert cluster.finish(job)["ExitCode"] == "2:0"
    (line,) = (tmp_path / "job.log").read_text().splitlines()
    assert "/nowhere/jax.sif: no such image" in line


def test_a_job_whose_listener_is_gone_still_ends(tmp_path: Path) -> None:
    """As after `scancel --full`, whose SIGTERM meets every process of the job."""
    line = f"source {REPOSITORY}/slurm/job.sh; mkfifo {tmp_path}/torch; served=(--served {tmp_path}/torch) servers=()"
    subprocess.run(["bash", "-c", f"{line}; end_arms"], check=True, timeout=60)
