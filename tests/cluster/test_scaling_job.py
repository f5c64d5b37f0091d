"""`sbatch slurm/scaling.sh` with wrong words and stopped; tests/cluster/test_documentation.py runs it undisturbed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY
from virtual_cluster import VirtualCluster, wait_for

SCRIPT = str(REPOSITORY / "slurm" / "scaling.sh")


def test_what_cannot_be_measured_is_told_in_one_line(cluster: VirtualCluster, tmp_path: Path) -> None:
    wrong = {
        "the job has 1: sbatch --nodes 2": ("--nodes", "1,2"),
        "--nodes two: numbers": ("--nodes=two",),
        "--framework tf: torch, jax or torch,jax": ("--framework", "tf"),
        "--framework : torch, jax or torch,jax": ("--framework", ""),
        "--continue 9999: there is no": ("--continue", "9999"),
        "--continue ../x: the number of a job": ("--continue=../x",),
    }
    for number, (message, words) in enumerate(wrong.items()):
        log = tmp_path / f"{number}.log"
        job = cluster.submit(f"--output={log}", SCRIPT, *words, settings={"ANATOBENCH_RUNS": str(tmp_path / "runs")})
        assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
        (line,) = log.read_text().splitlines()
        assert line.startswith("scaling: ")
        assert message in line


@pytest.fixture
def waiting_suite(tmp_path: Path) -> Path:
    """Return an environment whose `anatobench` measures on one node only once it was stopped there."""
    program = tmp_path / "venv" / "bin" / "anatobench"
    program.parent.mkdir(parents=True)
    (program.parent / "python").symlink_to("/bin/true")
    program.write_text(
        "#!/bin/bash\n"
        f'[ "$SLURM_PROCID" != 0 ] || echo "$SLURM_STEP_NUM_NODES $*" >>{tmp_path}/calls\n'
        f'if [[ "$*" == *--together* && $SLURM_STEP_NUM_NODES = 1 && ! -e {tmp_path}/waited ]]; then\n'
        f"  trap 'exit 130' USR1\n  touch {tmp_path}/waited\n  sleep 300 &\n  wait\n"
        "fi\n"
        'until [ "$1" = --out ]; do shift; done\necho {} >"$2"\n'
    )
    program.chmod(0o755)
    return tmp_path


def preempted(cluster: VirtualCluster, job: str, submit: Callable[..., str]) -> str:
    cluster.scancel("--batch", "--signal=USR1", job)
    return job


def cancelled(cluster: VirtualCluster, job: str, submit: Callable[..., str]) -> str:
    cluster.scancel(job)
    assert cluster.finish(job)["JobState"] == "CANCELLED"
    other = cluster.finish(submit("--continue", job, "--seed", "7"))
    assert other["ExitCode"] == "2:0", "points of another question are not taken up"
    return submit("--continue", job)


@pytest.mark.parametrize("stopped", [preempted, cancelled])
def test_a_stopped_job_measures_what_is_missing(
    cluster: VirtualCluster, waiting_suite: Path, stopped: Callable[..., str]
) -> None:
    runs, log = waiting_suite / "runs", waiting_suite / "job.log"
    settings = {"ANATOBENCH_VENV": str(waiting_suite / "venv"), "ANATOBENCH_RUNS": str(runs)}

    def submit(*words: str) -> str:
        asked = ("--nodes", "1,2", "--framework", "torch", *words)
        return cluster.submit("--nodes=2", "--gpus-per-node=1", f"--output={log}", SCRIPT, *asked, settings=settings)

    first = submit()
    wait_for(lambda: (waiting_suite / "waited").exists(), 120, "the point of one node was not begun")
    assert cluster.finish(stopped(cluster, first, submit))["JobState"] == "COMPLETED", log.read_text()
    calls = (waiting_suite / "calls").read_text().splitlines()
    measured = [call[0] for call in calls if "--together" in call]
    assert measured == ["2", "1", "1"], "the point of two nodes is measured once"
    assert {path.name for path in runs.iterdir()} == {f"scaling-{first}-torch.json", f"scaling-{first}.html"}
    assert re.search(r"^job \d+ scaling: ends \(exit 0:0\)", log.read_text(), re.MULTILINE), "a line in each log"
