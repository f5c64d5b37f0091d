"""`sbatch slurm/compare.sh`: both frameworks, from an environment each, in turns, and one record."""

import json
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY
from framework_environments import environment_with
from virtual_cluster import VirtualCluster

pytest.importorskip("torch")
pytest.importorskip("flax")

TINY = "--model r3d_18 --geometry chest --precision bf16 --size tiny --batch-size 1 --repeats 3"


def test_two_environments_give_one_record_with_a_ratio(cluster: VirtualCluster, tmp_path: Path) -> None:
    settings = {"ANATOBENCH_VENV": "/nowhere", "ANATOBENCH_RUNS": str(tmp_path / "runs"),
                "ANATOBENCH_GPUS_PER_NODE": "4", "ANATOBENCH_CPUS_PER_GPU": "2"}  # fmt: skip
    for framework in ("torch", "jax"):
        settings[f"ANATOBENCH_VENV_{framework.upper()}"] = str(environment_with(framework, tmp_path / framework))
    line = f"source slurm/site.conf && sbatch --parsable --output={tmp_path}/job.log slurm/compare.sh {TINY}"
    job = cluster.shell(line, settings=settings, cwd=REPOSITORY).strip()
    ended = cluster.finish(job)
    assert ended["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    assert ended["TresPerNode"] == "gres:gpu:1"
    record = json.loads((tmp_path / "runs" / f"compare-{job}.json").read_text())
    assert [arm["home"]["python"] for arm in record["arms"]] == [
        str(tmp_path / framework / "bin" / "python") for framework in ("torch", "jax")
    ]
    assert (record["passed"], record["same_first_loss"]) == (True, True)
    (ratio,) = record["ratios"]
    assert (ratio["of"], ratio["to"]) == ("jax", "torch")
    assert ratio["ci95"][0] <= ratio["ratio"] <= ratio["ci95"][1]
    assert "takes" in (tmp_path / "job.log").read_text()


def test_a_framework_that_is_missing_is_told_before_anything_starts(cluster: VirtualCluster, tmp_path: Path) -> None:
    settings = {"ANATOBENCH_IMAGE_JAX": "/nowhere/jax.sif", "ANATOBENCH_RUNS": str(tmp_path / "runs")}
    script = str(REPOSITORY / "slurm" / "compare.sh")
    job = cluster.submit(f"--output={tmp_path}/job.log", script, *TINY.split(), settings=settings)
    assert cluster.finish(job)["ExitCode"] == "2:0"
    (line,) = (tmp_path / "job.log").read_text().splitlines()
    assert "/nowhere/jax.sif: no such image" in line
