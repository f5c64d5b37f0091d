"""`sbatch slurm/train_*.sh` on a virtual cluster: from the allocation to the last weights, whatever happens between."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, STEPS, TRAINING, last_weights, processes_with
from virtual_cluster import FINISHED, VirtualCluster, wait_for

pytest.importorskip("torch")


class Training:
    """One run on the cluster, through as many jobs as it takes."""

    def __init__(self, cluster: VirtualCluster, store: Path, folder: Path) -> None:
        self._cluster, self._store = cluster, store
        self.run, self.log = folder / "run", folder / "job.log"

    def submit(self, *options: str, settings: dict[str, str] | None = None, sbatch: tuple[str, ...] = ()) -> str:
        return self._cluster.submit(
            f"--output={self.log}", *sbatch, str(REPOSITORY / "slurm" / "train_ratic.sh"),
            "--store", str(self._store), "--out", str(self.run), *TRAINING, *options, settings=settings,
        )  # fmt: skip

    def steps(self) -> int:
        """Count the steps in the log of the run."""
        path = self.run / "metrics.jsonl"
        return path.read_text().count('"kind": "step"') if path.exists() else 0

    def reach(self, step: int) -> None:
        wait_for(lambda: self.steps() >= step, 300, f"step {step} was not reached: {self.said()}")

    def processes(self) -> list[int]:
        """Ids of the processes that train."""
        return processes_with("train", str(self.run))

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def training(cluster: VirtualCluster, store: Path, tmp_path: Path) -> Training:
    return Training(cluster, store, tmp_path)


def test_a_job_trains_what_a_person_trains_from_a_copy_on_the_nodes_disk(
    cluster: VirtualCluster, training: Training, store: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    settings = {"ANATOBENCH_LOCAL_SCRATCH": str(tmp_path / "scratch"), "ANATOBENCH_VENV": sys.prefix}  # no stand-in
    job = training.submit(settings=settings)
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert last_weights(training.run) == uninterrupted
    assert json.loads((training.run / "config.json").read_text())["store"] == str(store)
    (copy,) = (path for path in (tmp_path / "scratch").iterdir() if path.is_dir())
    assert f"the store is at {copy} on 1 node(s)" in training.said()
    assert {path.name for path in (copy / "cases").iterdir()} == {path.name for path in (store / "cases").iterdir()}


def test_the_time_limits_signal_saves_and_queues_again(
    cluster: VirtualCluster, training: Training, uninterrupted: bytes
) -> None:
    job = training.submit()
    training.reach(3)
    for words in (("--batch",), ("--batch",), ()):  # Slurm sends it once or twice
        cluster.scancel(*words, "--signal=USR1", job)
    wait_for(lambda: "queued again" in training.said(), 300, training.said())
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert "which is saved" in training.said()
    # On a busy machine the last of the signals can meet the run after it was begun again.
    assert cluster.job(job)["Restarts"] == str(training.said().count("queued again"))
    assert last_weights(training.run) == uninterrupted


HITS: dict[str, Callable[[VirtualCluster, str, int], object]] = {
    "kill -9": lambda cluster, job, process: os.kill(process, signal.SIGKILL),
    "SIGTERM to the process": lambda cluster, job, process: os.kill(process, signal.SIGTERM),
    "SIGUSR1 to the script": lambda cluster, job, process: cluster.scancel("--batch", "--signal=USR1", job),
    "SIGTERM to the steps": lambda cluster, job, process: cluster.scancel("--signal=TERM", job),
    "scontrol requeue": lambda cluster, job, process: cluster.scontrol("requeue", job),
    "scancel": lambda cluster, job, process: cluster.scancel(job),
}


def test_twenty_hits_at_random_moments_change_nothing(
    cluster: VirtualCluster, store: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    """From the start of the process to its last step, so also while it imports, reads or saves a checkpoint. Four runs
    at a time take five hits each, one of them in a process that begins as a user's does."""
    rng = random.Random(4)
    hits = [*HITS, *rng.choices(["kill -9", "kill -9", *HITS], k=20 - len(HITS))]
    rng.shuffle(hits)

    def take(part: int) -> list[bytes]:
        """Train run after run until each of a part of the hits has met one; the last weights of all."""
        left, weights, own = hits[part::4], list[bytes](), random.Random(part)
        settings = {"ANATOBENCH_MAX_RESTARTS": "100"} | ({} if part else {"ANATOBENCH_VENV": sys.prefix})
        while left:
            folder = tmp_path / f"{part}_{len(weights)}"
            folder.mkdir()
            training = Training(cluster, store, folder)
            while not (training.run / "checkpoints" / f"step_{STEPS:08d}").exists():
                job = training.submit("--checkpoint-every", "3", settings=settings)
                del left[: hit_until_it_ends(cluster, job, training, left, own, longest=2 if part else 8)]
            weights.append(last_weights(training.run))
        return weights

    with ThreadPoolExecutor(4) as threads:
        assert {one for weights in threads.map(take, range(4)) for one in weights} == {uninterrupted}


def hit_until_it_ends(
    cluster: VirtualCluster, job: str, training: Training, hits: list[str], rng: random.Random, longest: float
) -> int:
    """Hit each process of the job within `longest` seconds; how many of the hits met it."""
    met = 0
    while met < len(hits) and cluster.job(job)["JobState"] not in FINISHED:
        before = training.processes()
        if not before:  # queued
            time.sleep(0.1)
            continue
        time.sleep(rng.uniform(0, longest))
        if before[0] not in training.processes():  # done
            continue
        with suppress(ProcessLookupError, subprocess.CalledProcessError):  # it ended at this very moment
            HITS[hits[met]](cluster, job, before[0])
            met += 1
        wait_for(lambda: before[0] not in training.processes(), 60, training.said())  # noqa: B023
    assert cluster.finish(job)["JobState"] in ("COMPLETED", "CANCELLED"), training.said()
    return met


def test_a_job_of_a_higher_partition_only_delays_a_run(
    cluster: VirtualCluster, training: Training, uninterrupted: bytes, tmp_path: Path
) -> None:
    job = training.submit("--device", "cpu", sbatch=("--gpus-per-node=1", "--nodelist=node1"))
    training.reach(2)
    urgent = cluster.submit(
        "--partition=urgent", "--nodelist=node1", "--exclusive", f"--output={tmp_path}/urgent.log", "--wrap=true"
    )
    assert cluster.finish(urgent)["JobState"] == "COMPLETED"
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert cluster.job(job)["Restarts"] == "1"
    assert last_weights(training.run) == uninterrupted


def test_a_run_whose_node_is_lost_goes_on_elsewhere_or_when_it_is_back(
    cluster: VirtualCluster, training: Training, uninterrupted: bytes
) -> None:
    job = training.submit()
    training.reach(7)
    node = cluster.job(job)["NodeList"]
    cluster.lose_node(node)
    cluster.start_node(node)
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert cluster.job(job)["Restarts"] == "1"
    assert last_weights(training.run) == uninterrupted


def test_a_job_of_two_processes_goes_on_after_one_of_them_was_killed(
    cluster: VirtualCluster, store: Path, tmp_path: Path
) -> None:
    undisturbed, killed = (Training(cluster, store, tmp_path / name) for name in ("undisturbed", "killed"))
    jobs = []
    for training in (undisturbed, killed):
        training.log.parent.mkdir()
        jobs.append(training.submit(sbatch=("--nodes=1", "--ntasks-per-node=2")))
    killed.reach(7)
    os.kill(killed.processes()[-1], signal.SIGKILL)
    wait_for(lambda: "queued again" in killed.said(), 60, killed.said())
    for training, job in zip((undisturbed, killed), jobs, strict=True):
        assert cluster.finish(job, seconds=180)["JobState"] == "COMPLETED", training.said()
        assert "2 task(s) on 1 node(s)" in training.said()
    assert [cluster.job(job)["Restarts"] for job in jobs] == ["0", "1"]
    assert last_weights(undisturbed.run) == last_weights(killed.run)


def test_a_gpu_job_that_finds_no_gpu_fails_in_one_line_unless_the_cpu_is_wanted(
    cluster: VirtualCluster, training: Training, uninterrupted: bytes
) -> None:
    """The nodes' GPUs are not real ones."""
    refused = cluster.finish(training.submit(sbatch=("--gpus-per-node=1",)))
    assert (refused["JobState"], refused["ExitCode"], refused["Restarts"]) == ("FAILED", "1:0", "0")
    assert "would compute on the CPU" in training.said()
    assert training.steps() == 0
    job = training.submit("--device", "cpu", sbatch=("--gpus-per-node=1",))
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert last_weights(training.run) == uninterrupted


@pytest.fixture
def greedy_suite(tmp_path: Path) -> Path:
    """Return an environment whose `anatobench` takes more memory than it was given as often as `greedy` says."""
    program = tmp_path / "venv" / "bin" / "anatobench"
    program.parent.mkdir(parents=True)
    (program.parent / "python").symlink_to("/bin/true")
    greedy = "import time; taken = bytearray(400_000_000); time.sleep(60)"
    program.write_text(
        f"#!/bin/bash\necho start >>{tmp_path}/starts\n"
        f'if [ "$(wc -l <{tmp_path}/starts)" -gt "$(cat {tmp_path}/greedy)" ]; then exit 0; fi\n'
        f"exec {sys.executable} -c '{greedy}'\n"
    )
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("greedy", "state"), [(1, "COMPLETED"), (9, "FAILED")], ids=["once", "always"])
def test_a_kill_by_the_memory_limit_is_queued_again_once(
    cluster: VirtualCluster, store: Path, greedy_suite: Path, greedy: int, state: str
) -> None:
    (greedy_suite / "greedy").write_text(str(greedy))
    training = Training(cluster, store, greedy_suite)
    job = training.submit(
        settings={"ANATOBENCH_VENV": str(greedy_suite / "venv")}, sbatch=("--mem=200M", "--comment=mine")
    )
    ended = cluster.finish(job)
    assert (ended["JobState"], ended["Restarts"]) == (state, "1"), training.said()
    assert (greedy_suite / "starts").read_text().count("start") == 2
    assert "killed by the memory limit; queued again" in training.said()
    assert ("for the second time: given up" in training.said()) == (state == "FAILED")
    assert "mine anatobench-met-the-memory-limit" in cluster.scontrol("show", "job", "--oneliner", job)


def test_a_failed_run_is_not_queued_again(cluster: VirtualCluster, training: Training) -> None:
    (training.run).mkdir()
    (training.run / "notes.txt").write_text("not a run")
    job = cluster.finish(training.submit())
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "1:0", "0")
    assert "not empty and not a run" in training.said()


WRONG: dict[str, tuple[str, ...] | dict[str, str] | list[str]] = {
    "tf: torch or jax": ("--framework", "tf"),
    "--model vgg: choose one of mvit_v2_s, r3d_18, swin3d_t": ("--model", "vgg"),
    "--model: its value is missing": ("--model",),
    "/nowhere: no store here": ("--store=/nowhere",),
    "/proc/run: cannot be written": ("--out", "/proc/run"),
    "no such image": {"ANATOBENCH_IMAGE_TORCH": "/nowhere/torch.sif"},
    "no virtual environment": {"ANATOBENCH_VENV": "/nowhere"},
    "no `module` command": {"ANATOBENCH_MODULES": "cuda"},
    "not AnatoBench's repository": {"ANATOBENCH_REPOSITORY": "/nowhere"},
    "spread unevenly": ["--nodes=2", "--gpus=5"],
}


def test_wrong_settings_fail_before_anything_runs_with_one_line(
    cluster: VirtualCluster, store: Path, tmp_path: Path
) -> None:
    jobs = {}
    for number, (message, wrong) in enumerate(WRONG.items()):
        training = Training(cluster, store, tmp_path / str(number))
        training.log.parent.mkdir()
        options = wrong if isinstance(wrong, tuple) else ()
        settings = wrong if isinstance(wrong, dict) else {}
        sbatch = wrong if isinstance(wrong, list) else []
        jobs[message] = training, training.submit(*options, settings=settings, sbatch=tuple(sbatch))
    for message, (training, job) in jobs.items():
        assert cluster.finish(job)["ExitCode"] == "2:0", training.said()
        (line,) = training.said().splitlines()
        assert message in line


def test_a_site_conf_that_cannot_be_used_is_told_in_one_line(cluster: VirtualCluster, tmp_path: Path) -> None:
    """And a folder with a space in its name is no reason to fail."""
    text = (REPOSITORY / "slurm" / "site.conf").read_text()
    wrong = {
        "cannot be read": None,
        "Windows line ends": text.replace("\n", "\r\n"),
        "unexpected EOF while looking for": text + 'ANATOBENCH_QOS="long\n',
        "/nowhere: no store here": text + "ANATOBENCH_STORE=/nowhere\n",
    }
    for number, (message, content) in enumerate(wrong.items()):
        repository = tmp_path / f"my clone {number}"
        shutil.copytree(REPOSITORY / "slurm", repository / "slurm")
        (repository / "anatobench").symlink_to(REPOSITORY / "anatobench")
        (repository / "slurm" / "site.conf").unlink()
        if content is not None:
            (repository / "slurm" / "site.conf").write_bytes(content.encode())
        log, settings = repository / "job.log", {"ANATOBENCH_REPOSITORY": str(repository)}
        job = cluster.submit(f"--output={log}", "slurm/train_ratic.sh", cwd=repository, settings=settings)
        assert cluster.finish(job)["ExitCode"] == "2:0", log.read_text()
        (line,) = log.read_text().splitlines()
        assert line.startswith("train.sh: ")
        assert message in line


@pytest.fixture
def curious_suite(tmp_path: Path) -> Path:
    """Return a virtual environment whose `anatobench` writes down where it was started and with what."""
    program = tmp_path / "venv" / "bin" / "anatobench"
    program.parent.mkdir(parents=True)
    (program.parent / "python").symlink_to("/bin/true")
    where = "$SLURM_PROCID $SLURM_NTASKS $SLURM_LOCALID $(hostname) ${CUDA_VISIBLE_DEVICES:-none}"
    coordinator = "$MASTER_ADDR $MASTER_PORT"
    program.write_text(
        f'#!/bin/bash\necho "{where} {coordinator} $*" >{tmp_path}/task$SLURM_PROCID\n'
        f'echo "$ANATOBENCH_COMPILE_CACHE" >{tmp_path}/cache$SLURM_PROCID\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


ALLOCATIONS = [
    (["--nodes=1", "--gpus-per-node=3"], ["node1 3", "node1 3", "node1 3"]),
    (["--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=4"], ["node1 2", "node1 2", "node2 2", "node2 2"]),
    (["--nodes=1", "--ntasks=2", "--gpus-per-task=1"], ["node1 2", "node1 2"]),
    (["--nodes=2"], ["node1 0", "node2 0"]),
    (["--nodes=1", "--ntasks-per-node=2"], ["node1 0", "node1 0"]),
]


@pytest.mark.parametrize(("allocation", "tasks"), ALLOCATIONS, ids=lambda words: words[-1])
def test_one_task_per_gpu_of_the_allocation_and_all_know_the_first_node(
    cluster: VirtualCluster, store: Path, curious_suite: Path, allocation: list[str], tasks: list[str]
) -> None:
    training = Training(cluster, store, curious_suite)
    job = training.submit(settings={"ANATOBENCH_VENV": str(curious_suite / "venv")}, sbatch=tuple(allocation))
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    local_ranks: dict[str, int] = {}
    for rank, (node, gpus) in enumerate(task.split() for task in tasks):
        local_rank = local_ranks[node] = local_ranks.get(node, -1) + 1
        *place, visible, host, port = (curious_suite / f"task{rank}").read_text().split()[:7]
        assert place == [str(rank), str(len(tasks)), str(local_rank), node]
        assert (0 if visible == "none" else len(visible.split(","))) == int(gpus), "every task sees its node's GPUs"
        assert (host, port) == ("node1", str(10000 + int(job) % 20000))


SITE = {
    "ANATOBENCH_QOS": "normal", "ANATOBENCH_GPUS_PER_NODE": "2", "ANATOBENCH_GPU_TYPE": "fake",
    "ANATOBENCH_CPUS_PER_GPU": "3", "ANATOBENCH_CONSTRAINT": "virtual", "ANATOBENCH_MEMORY": "9G",
    "ANATOBENCH_TIME_LIMIT": "7", "ANATOBENCH_SCRATCH": "/scratch/me",
}  # fmt: skip


def test_a_filled_in_site_is_what_sbatch_is_asked_for(
    cluster: VirtualCluster, store: Path, curious_suite: Path
) -> None:
    """And a binding of GPUs that the job was submitted with stays, as each task's `srun` sees."""
    log, settings = curious_suite / "job.log", {**SITE, "ANATOBENCH_VENV": str(curious_suite / "venv")}
    script = f"slurm/train_ratic.sh --store {store} --out {curious_suite / 'run'}"
    line = f"source slurm/site.conf && sbatch --parsable --output={log} --gpu-bind=single:1 {script}"
    job = cluster.finish(cluster.shell(line, settings=settings, cwd=REPOSITORY).strip())
    assert job["JobState"] == "COMPLETED", log.read_text()
    # (The virtual cluster has no accounting, so its QoS is not checked by Slurm.)
    asked = {name: job[name] for name in ("Features", "MinMemoryNode", "CpusPerTres", "TresPerNode", "TimeLimit")}
    assert asked == {
        "Features": "virtual", "MinMemoryNode": "9G", "CpusPerTres": "gres:gpu:3",
        "TresPerNode": "gres:gpu:fake:2", "TimeLimit": "00:07:00",
    }  # fmt: skip
    visible = [(curious_suite / f"task{rank}").read_text().split()[4] for rank in range(2)]
    assert visible == ["0", "1"], "a task sees the GPU that it is bound to"
    caches = [(curious_suite / f"cache{rank}").read_text().strip() for rank in range(2)]
    assert caches == ["/scratch/me/anatobench-compiled"] * 2, "all tasks share what one of them compiled"


def test_an_image_is_run_by_the_sites_program(cluster: VirtualCluster, store: Path, curious_suite: Path) -> None:
    """Which writes down how it was called, and does what an image would."""
    program = curious_suite / "bin" / "singularity"
    program.parent.mkdir()
    image = curious_suite / "torch.sif"
    image.touch()
    program.write_text(
        f'#!/bin/bash\necho "$@" >{curious_suite}/called\nuntil [ "$1" = {image} ]; do shift; done\nshift\n'
        f'PATH={curious_suite}/venv/bin:$PATH exec "$@"\n'
    )
    program.chmod(0o755)
    training = Training(cluster, store, curious_suite)
    scratch = curious_suite / "scratch"
    settings = {"ANATOBENCH_IMAGE_TORCH": str(image), "ANATOBENCH_CONTAINER": "singularity",
                "ANATOBENCH_SCRATCH": str(scratch), "ANATOBENCH_BIND": "/opt,/srv", "ANATOBENCH_VENV": "/nowhere",
                "PATH": f"{program.parent}:{os.environ['PATH']}"}  # fmt: skip
    job = training.submit(settings=settings, sbatch=("--gpus-per-node=1",))
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    words = (curious_suite / "called").read_text().split()
    assert words[:2] == ["exec", "--nv"]
    bound = {words[place + 1] for place, word in enumerate(words) if word == "--bind"}
    assert {str(REPOSITORY), "/opt", "/srv", str(store), str(training.run), f"{scratch}/anatobench-compiled"} <= bound
    assert "train" in (curious_suite / "task0").read_text()


def test_an_evaluation_is_announced_stops_when_asked_and_is_done_again(
    cluster: VirtualCluster, store: Path, tmp_path: Path
) -> None:
    """The first one waits for the signal, as one in its middle does."""
    program = tmp_path / "venv" / "bin" / "anatobench"
    program.parent.mkdir(parents=True)
    (program.parent / "python").symlink_to("/bin/true")
    program.write_text(
        f'#!/bin/bash\necho "$1" >>{tmp_path}/calls\n[ "$1" = evaluate ] || exit 0\n'
        f"[ $(grep -c evaluate {tmp_path}/calls) = 1 ] || exit 0\n"
        "trap 'exit 130' USR1\nsleep 300 &\nwait\n"
    )
    program.chmod(0o755)
    training = Training(cluster, store, tmp_path)
    job = training.submit("--evaluate", settings={"ANATOBENCH_VENV": str(tmp_path / "venv")})
    calls = tmp_path / "calls"
    wait_for(lambda: calls.exists() and "evaluate" in calls.read_text(), 120, training.said())
    time.sleep(0.5)  # it sets its trap
    cluster.scancel("--batch", "--signal=USR1", job)
    assert cluster.finish(job)["JobState"] == "COMPLETED", training.said()
    assert calls.read_text().split() == ["train", "evaluate", "train", "evaluate"]
    assert training.said().count("evaluating") == 2


@pytest.mark.parametrize("task", ["ratic", "ct_rate", "rad_chestct"])
def test_each_task_has_its_script_and_the_environment_says_what_the_arguments_do_not(
    cluster: VirtualCluster, store: Path, curious_suite: Path, task: str
) -> None:
    stores = curious_suite / "stores"
    stores.mkdir()
    (stores / task).symlink_to(store)
    settings = {"ANATOBENCH_VENV": str(curious_suite / "venv"), "ANATOBENCH_STORES": str(stores),
                "ANATOBENCH_RUNS": str(curious_suite / "runs"), "ANATOBENCH_MODEL": "swin3d_t"}  # fmt: skip
    log = f"--output={curious_suite}/job.log"
    script = str(REPOSITORY / "slurm" / f"train_{task}.sh")
    job = cluster.submit(log, script, "--framework=jax", "--no-seg", "--set", "seed=7", settings=settings)
    assert cluster.finish(job)["JobState"] == "COMPLETED", (curious_suite / "job.log").read_text()
    words = (curious_suite / "task0").read_text().split()
    assert words[words.index("train") :] == [
        "train", "--resume", "--task", task, "--model", "swin3d_t", "--store", str(stores / task), "--framework", "jax",
        "--out", str(curious_suite / "runs" / f"{task}_jax_swin3d_t"), "--no-seg", "--set", "seed=7",
    ]  # fmt: skip
