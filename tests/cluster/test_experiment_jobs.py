"""`anatobench experiments grid submit` on a virtual cluster: one array does every cell, whatever hits its elements."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, processes_with
from forked_python import SHALLOW
from safetensors.numpy import load_file
from virtual_cluster import VirtualCluster, wait_for

from anatobench.experiments.grid import Selection
from anatobench.experiments.jobs import job_arrays, submit
from anatobench.experiments.runs import PlannedRun, initial_weights_of, run_folder
from anatobench.training.run_folder import configure, evaluation_file

pytest.importorskip("torch")
pytest.importorskip("jax")

CELLS = Selection(("1",), ("ratic",), ("r3d_18",), seeds=1, from_scratch=True).cells
FILTERS = ["--tables", "1", "--datasets", "ratic", "--models", "r3d_18", "--seeds", "1"]
SETTINGS = ["--from-scratch", "--steps", "12", "--set", "batch_size=2"]


class Grid:
    """A small grid on the cluster."""

    def __init__(self, cluster: VirtualCluster, store: Path, folder: Path) -> None:
        self._cluster = cluster
        self.out, self._stores = folder / "grid", folder / "stores"
        self._stores.mkdir()
        (self._stores / "ratic").symlink_to(store)

    def do(self, action: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        program = f"{self._cluster.environment['ANATOBENCH_VENV']}/bin/anatobench"
        command = [program, "experiments", "grid", action, "--out", str(self.out)]
        settings = [] if action == "collect" else ["--stores", str(self._stores), *SETTINGS]
        done = subprocess.run(
            [*command, *FILTERS, *settings, *words],
            env={**self._cluster.environment, **SHALLOW}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    def said(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.out / "logs").glob("*.log")))


@pytest.fixture
def grid(cluster: VirtualCluster, store: Path, tmp_path: Path) -> Grid:
    return Grid(cluster, store, tmp_path)


def test_an_array_trains_and_evaluates_every_cell_though_one_is_killed_and_one_preempted(
    cluster: VirtualCluster, grid: Grid
) -> None:
    job = json.loads(grid.do("submit", "--at-a-time", "2", "--json").stdout)["job"]
    first, second = (str(run_folder(grid.out, cell.name)) for cell in CELLS[:2])
    wait_for(lambda: processes_with("train", first), 90, "element 0 did not begin")
    os.kill(processes_with("train", first)[0], signal.SIGKILL)
    wait_for(lambda: (Path(second) / "metrics.jsonl").exists(), 120, "element 1 did not train")
    cluster.scancel("--batch", "--signal=USR1", f"{job}_1")
    ends = [cluster.finish(f"{job}_{element}", 300) for element in range(len(CELLS))]
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * len(CELLS), grid.said()
    killed, preempted, *others = (int(end["Restarts"]) for end in ends)
    # Slurm repeats a signal whose receipt a busy node confirms late, and each stops a run that is saved and goes on.
    assert [killed, min(preempted, 1), *others] == [1, 1, 0, 0], grid.said()
    evaluated = [run_folder(grid.out, cell.name) / evaluation_file("test") for cell in CELLS]
    times = [path.stat().st_mtime_ns for path in evaluated]
    record = json.loads(grid.do("collect", "--json").stdout)
    assert len(record["results"]) == len(CELLS)
    assert record["missing"] == []

    # A second submission has nothing to do; an array of the old plan passes every cell by; one that is gone is redone.
    assert "nothing to submit" in grid.do("submit").stdout
    (plan,) = (grid.out / "plans").iterdir()
    script = str(REPOSITORY / "slurm" / "experiments.sh")
    again = cluster.submit("--array=0-1", f"--output={grid.out}/logs/again_%a.log", script, str(plan))
    assert [cluster.finish(f"{again}_{element}")["JobState"] for element in range(2)] == ["COMPLETED"] * 2
    assert "done before" in (grid.out / "logs" / "again_1.log").read_text()
    assert [path.stat().st_mtime_ns for path in evaluated] == times
    evaluated[2].unlink()
    submitted = json.loads(grid.do("submit", "--json", "--sbatch=--time=20").stdout)
    assert submitted["submitted"] == 1
    assert cluster.finish(f"{submitted['job']}_0", 180)["JobState"] == "COMPLETED", grid.said()
    assert evaluated[2].exists()


def test_a_dry_run_prints_a_line_that_submits(cluster: VirtualCluster, grid: Grid) -> None:
    line = grid.do("submit", "--dry-run").stdout.strip()
    assert f"--array=0-{len(CELLS) - 1}" in line
    assert not cluster_jobs_of(cluster, grid)
    words = ["bash", "-c", line.replace("sbatch ", "sbatch --hold ", 1)]
    job = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, check=True).stdout.strip()
    assert job.isdigit()
    cluster.scancel(job)


def cluster_jobs_of(cluster: VirtualCluster, grid: Grid) -> list[str]:
    """Jobs whose log would lie in the grid's folder."""
    return [line for line in cluster.scontrol("show", "jobs", "--oneliner").splitlines() if str(grid.out) in line]


def test_a_run_that_begins_with_anothers_weights_waits_for_it(
    cluster: VirtualCluster, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**cluster.environment, **SHALLOW}.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "study"
    first = PlannedRun("first", configure(store, "r3d_18", "torch", ["batch_size=2"], max_steps=2))
    weights = initial_weights_of(out, "first")
    config = configure(store, "r3d_18", "jax", ["batch_size=2", "seed=1"], max_steps=2, initial_weights=weights)
    jobs = submit(job_arrays([PlannedRun("second", config, "first"), first], out, None, []))
    ends = [cluster.finish(f"{job}_0", 240) for job in jobs]
    said = "\n".join(path.read_text() for path in sorted((out / "logs").glob("*.log")))
    assert [end["JobState"] for end in ends] == ["COMPLETED"] * 2, said
    assert all((run_folder(out, name) / evaluation_file("test")).exists() for name in ("first", "second"))
    began = [load_file(initial_weights_of(out, name)) for name in ("first", "second")]
    assert {name: array.tobytes() for name, array in began[0].items()} == {
        name: array.tobytes() for name, array in began[1].items()
    }


def test_wrong_plans_fail_with_one_line(cluster: VirtualCluster, grid: Grid, tmp_path: Path) -> None:
    grid.do("submit", "--dry-run")
    (plan,) = (grid.out / "plans").iterdir()
    script = str(REPOSITORY / "slurm" / "experiments.sh")
    wrong = {
        "no such plan": ("--array=0", script, "/nowhere.tsv"),
        "has no line 8": ("--array=7", script, str(plan)),
        "not a job array": (script, str(plan)),
        "nothing else": ("--array=0", script, str(plan), "--steps=3"),
    }
    for number, (message, words) in enumerate(wrong.items()):
        log = tmp_path / f"{number}.log"
        job = cluster.submit(f"--output={log}", *words)
        assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
        (line,) = log.read_text().splitlines()
        assert message in line


def test_a_refusal_by_slurm_is_one_line_with_the_command(grid: Grid) -> None:
    errors = grid.do("submit", "--sbatch=--partition=nowhere", status=1).stderr
    (line,) = (line for line in errors.splitlines() if line.startswith("anatobench experiments:"))
    assert "nothing was submitted" in line
    assert "slurm/experiments.sh" in line
