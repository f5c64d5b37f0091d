"""`sbatch slurm/scaling.sh` with wrong words; tests/cluster/test_documentation.py runs it with the right ones."""

from pathlib import Path

from cluster_jobs import REPOSITORY
from virtual_cluster import VirtualCluster


def test_what_cannot_be_measured_is_told_in_one_line(cluster: VirtualCluster, tmp_path: Path) -> None:
    script = str(REPOSITORY / "slurm" / "scaling.sh")
    wrong = {
        "the job has 1: sbatch --nodes 2": ("--nodes", "1,2"),
        "--nodes two: numbers": ("--nodes=two",),
        "--framework tf: torch or jax": ("--framework", "tf"),
    }
    for number, (message, words) in enumerate(wrong.items()):
        log = tmp_path / f"{number}.log"
        job = cluster.submit(f"--output={log}", script, *words, settings={"ANATOBENCH_RUNS": str(tmp_path / "runs")})
        assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
        (line,) = log.read_text().splitlines()
        assert message in line
