"""`sbatch slurm/auc_study.sh`: a declared study of tiny models in one job, preempted once."""

import json
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY
from virtual_cluster import VirtualCluster, wait_for

pytest.importorskip("torch")
pytest.importorskip("jax")

SCRIPT = str(REPOSITORY / "slurm" / "auc_study.sh")
SMALL = ("--size", "tiny", "--precision", "fp32", "--cases", "40", "--steps", "6", "--seeds", "1",
         "--learning-rates", "4e-3")  # fmt: skip


def test_a_preempted_study_goes_on_to_its_record(cluster: VirtualCluster, tmp_path: Path) -> None:
    out, log = tmp_path / "study", tmp_path / "log"
    job = cluster.submit(f"--output={log}", SCRIPT, "--out", str(out), *SMALL)
    runs = out / "study" / "runs"
    wait_for(lambda: len(list(runs.glob("*/evaluation_test.json"))) > 0, 240, "no run was evaluated")
    declared = (out / "plan.json").read_bytes()
    cluster.scancel("--batch", "--signal=USR1", job)
    end = cluster.finish(job, 400)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    record = json.loads((out / "study" / "record.json").read_text())
    assert record["seeds"] == [0]
    assert len(record["cells"]) == 6
    assert (out / "plan.json").read_bytes() == declared == (out / "study" / "plan.json").read_bytes()


def test_full_size_needs_a_gpu(cluster: VirtualCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = cluster.submit(f"--output={log}", SCRIPT, "--out", str(tmp_path / "study"))
    assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
    assert "full-size models need a GPU" in log.read_text()
    assert not (tmp_path / "study").exists()
