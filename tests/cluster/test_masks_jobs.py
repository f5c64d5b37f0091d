"""`sbatch slurm/masks.sh`: a job array makes the masks that one process makes, and a killed shard is done again."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cluster_jobs import REPOSITORY, processes_with
from virtual_cluster import VirtualCluster, wait_for

from anatobench.volumes.nifti import write_nifti

SCRIPT = str(REPOSITORY / "slurm" / "masks.sh")
VENV = Path(os.environ.get("ANATOBENCH_VENV_MASKS") or REPOSITORY / ".venv-masks")
pytestmark = pytest.mark.skipif(
    not list(VENV.glob("lib/python3*/site-packages/totalsegmentator")),
    reason=f"TotalSegmentator is not installed in {VENV}: make test-masks, or set ANATOBENCH_VENV_MASKS",
)


@pytest.fixture(scope="session")
def environment() -> Path:
    """Return the real one: no job of this file takes another."""
    return VENV


@pytest.fixture(scope="module")
def settings(cluster: VirtualCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the jobs need besides: the virtual environment, and stand-in weights made in it."""
    weights = tmp_path_factory.mktemp("weights")
    code = f"import pathlib, stand_in_weights as s; s.write_stand_in_weights(pathlib.Path({str(weights)!r}))"
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests" / "support")])
    subprocess.run([VENV / "bin" / "python", "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)
    return {"ANATOBENCH_VENV_MASKS": str(VENV), "TOTALSEG_WEIGHTS_PATH": str(weights)}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small scans without masks."""
    folder = tmp_path_factory.mktemp("scans") / "raw"
    affine = np.array([[0, 0, -4.0, 90], [0, -4.0, 0, 80], [-4.0, 0, 0, 60], [0, 0, 0, 1]])
    for number in range(4):
        voxels = np.random.default_rng(number).integers(-1000, 1000, (30, 40, 45), dtype=np.int16)
        write_nifti(folder / f"scan_{number}.nii.gz", voxels, affine)
    return folder


def masks_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def test_an_array_with_a_killed_shard_equals_one_process(
    cluster: VirtualCluster, settings: dict[str, str], scans: Path, tmp_path: Path
) -> None:
    arguments = ["--raw", str(scans), "--out"]
    options = [f"--output={tmp_path}/%a.log", "--cpus-per-task=2", SCRIPT, *arguments, str(tmp_path / "masks")]
    job = cluster.submit("--array=0-1", *options, settings=settings)
    wait_for(lambda: (tmp_path / "masks" / ".shard-1-of-2.lock").exists(), 120, "shard 1 did not begin")
    os.kill(processes_with("masks", str(tmp_path / "masks"), "1/2")[0], signal.SIGKILL)
    ends = [cluster.finish(f"{job}_{shard}", 400) for shard in range(2)]
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * 2, (tmp_path / "1.log").read_text()
    assert [end["Restarts"] for end in ends] == ["0", "1"]
    command: list[str | Path] = [
        VENV / "bin" / "python",
        "-m",
        "anatobench",
        "masks",
        "--gpus",
        "0",
        *arguments,
        tmp_path / "alone",
    ]
    environment = {**os.environ, **settings, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, env=environment, check=True)
    expected = masks_in(tmp_path / "alone")
    assert len(expected) == 4
    assert masks_in(tmp_path / "masks") == expected


def test_a_job_with_a_gpu_that_cannot_be_used_says_so(
    cluster: VirtualCluster, settings: dict[str, str], scans: Path, tmp_path: Path
) -> None:
    """Computing on the CPU instead would take days and look like success."""
    arguments = ["--raw", str(scans), "--out", str(tmp_path / "masks")]
    options = ["--array=0-0", "--gpus-per-node=1", f"--output={tmp_path}/%a.log", SCRIPT, *arguments]
    job = cluster.submit(*options, settings=settings)
    assert cluster.finish(f"{job}_0", 200)["ExitCode"] == "1:0"
    assert "PyTorch cannot use GPU 0" in (tmp_path / "0.log").read_text()
    assert not masks_in(tmp_path / "masks")


def test_an_array_that_would_leave_scans_out_is_refused(
    cluster: VirtualCluster, settings: dict[str, str], scans: Path, tmp_path: Path
) -> None:
    options = [f"--output={tmp_path}/%a.log", SCRIPT, "--raw", str(scans), "--out", str(tmp_path / "masks")]
    job = cluster.submit("--array=1-2", *options, settings=settings)
    assert cluster.finish(f"{job}_2")["ExitCode"] == "2:0"
    assert "the array must be 0-N" in (tmp_path / "2.log").read_text()
    assert not (tmp_path / "masks").exists()
