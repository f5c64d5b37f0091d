"""`sbatch slurm/auc_study.sh`: a declared study of tiny models in one job, preempted once."""

from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY
from forked_python import SHALLOW
from virtual_cluster import VirtualCluster, wait_for

pytest.importorskip("torch")
pytest.importorskip("jax")

SCRIPT = str(REPOSITORY / "slurm" / "auc_study.sh")
SMALL = ("--size", "tiny", "--precision", "fp32", "--cases", "20", "--steps", "6", "--seeds", "1",
         "--learning-rates", "4e-3")  # fmt: skip


def test_a_preempted_study_goes_on_with_what_it_declared(cluster: VirtualCluster, tmp_path: Path) -> None:
    out, log = tmp_path / "study", tmp_path / "log"

    def evaluated() -> set[Path]:
        return set((out / "study" / "runs").glob("*/evaluation_test.json"))

    job = cluster.submit(f"--output={log}", SCRIPT, "--out", str(out), *SMALL, settings=SHALLOW)
    wait_for(evaluated, 300, "no run was evaluated")
    (first,) = evaluated()
    done, declared = first.stat().st_mtime_ns, (out / "plan.json").read_bytes()
    cluster.scancel("--batch", "--signal=USR1", job)
    wait_for(lambda: cluster.job(job)["Restarts"] == "1" and len(evaluated()) > 1, 300, "the study did not go on")
    assert (out / "plan.json").read_bytes() == declared == (out / "study" / "plan.json").read_bytes()
    assert first.stat().st_mtime_ns == done, "what is done is not run again"
    cluster.scancel(job)
    assert cluster.finish(job)["JobState"] == "CANCELLED", log.read_text()


def test_full_size_needs_a_gpu(cluster: VirtualCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = cluster.submit(f"--output={log}", SCRIPT, "--out", str(tmp_path / "study"))
    assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
    assert "full-size models need a GPU" in log.read_text()
    assert not (tmp_path / "study").exists()
