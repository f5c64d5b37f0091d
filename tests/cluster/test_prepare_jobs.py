"""`sbatch slurm/prepare.sh`: a job array makes the store that one process makes, and a killed shard is done again."""

import os
import re
import signal
from pathlib import Path

from cluster_jobs import REPOSITORY, preparation, processes_with
from virtual_cluster import VirtualCluster, wait_for

SCRIPT = str(REPOSITORY / "slurm" / "prepare.sh")


def contents(store: Path) -> dict[str, bytes]:
    """Return every file of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_an_array_with_a_killed_shard_equals_one_process(
    cluster: VirtualCluster, raw: Path, store: Path, tmp_path: Path
) -> None:
    options = ["--array=0-2", f"--output={tmp_path}/%a.log", SCRIPT, *preparation(raw, tmp_path / "store")]
    job = cluster.submit(*options, "--workers", "0")
    wait_for(lambda: (tmp_path / "store" / ".shard-1-of-3.lock").exists(), 60, "shard 1 did not begin")
    os.kill(processes_with("prepare", str(tmp_path / "store"), "1/3")[0], signal.SIGKILL)
    ends = [cluster.finish(f"{job}_{shard}") for shard in range(3)]
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * 3, (tmp_path / "1.log").read_text()
    assert [end["Restarts"] for end in ends] == ["0", "1", "0"]
    assert contents(tmp_path / "store") == contents(store)


FILLED_IN = {"ANATOBENCH_GPUS_PER_NODE": "4", "ANATOBENCH_CPUS_PER_GPU": "4"}
"""As site.conf says after its GPUs were filled in."""


def test_a_filled_in_site_gives_preparation_cores_and_no_gpu(
    cluster: VirtualCluster, raw: Path, store: Path, tmp_path: Path
) -> None:
    words = f"--parsable --output={tmp_path}/%a.log"
    script = f"slurm/prepare.sh {' '.join(preparation(raw, tmp_path / 'store'))}"
    line = f"source slurm/site.conf && sbatch --array=0-1%8 --cpus-per-task 2 {words} {script}"
    job = cluster.shell(line, settings=FILLED_IN, cwd=REPOSITORY).strip()
    ends = [cluster.finish(f"{job}_{shard}") for shard in range(2)]
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * 2, (tmp_path / "1.log").read_text()
    assert not any("gres/gpu" in end["TRES"] for end in ends)
    for shard in range(2):
        (line,) = re.findall(r"^job .*$", (tmp_path / f"{shard}.log").read_text(), re.MULTILINE)
        assert line.startswith(f"job {job}_{shard} prepare: ends (exit 0:0) after 0:0"), "its own, at its end"
    summary = cluster.shell(f"slurm/summary.sh {job}", cwd=REPOSITORY).splitlines()
    assert sorted(line.partition(" (")[0] for line in summary) == [f"job {job}_{n} prepare: COMPLETED" for n in (0, 1)]
    assert contents(tmp_path / "store") == contents(store)


def test_an_element_that_was_given_gpus_all_the_same_has_one_writer(
    cluster: VirtualCluster, raw: Path, store: Path, tmp_path: Path
) -> None:
    job = cluster.submit(
        "--array=0-1", f"--output={tmp_path}/%a.log", SCRIPT, *preparation(raw, tmp_path / "store"),
        settings={"SBATCH_GPUS_PER_NODE": "2", "SBATCH_CPUS_PER_GPU": "1"},
    )  # fmt: skip
    ends = [cluster.finish(f"{job}_{shard}") for shard in range(2)]
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * 2, (tmp_path / "1.log").read_text()
    assert contents(tmp_path / "store") == contents(store)


def test_an_array_that_would_leave_cases_out_is_refused(cluster: VirtualCluster, raw: Path, tmp_path: Path) -> None:
    options = [f"--output={tmp_path}/%a.log", SCRIPT, *preparation(raw, tmp_path / "store")]
    part = cluster.submit("--array=1-2", *options)
    beyond = cluster.submit("--array=7", *options, settings={"ANATOBENCH_SHARDS": "3"})
    for job, shard, message in ((part, 2, "the array must be 0-N"), (beyond, 7, "no shard 7 of 3")):
        assert cluster.finish(f"{job}_{shard}")["ExitCode"] == "2:0"
        assert message in (tmp_path / f"{shard}.log").read_text()
    assert not (tmp_path / "store").exists()
