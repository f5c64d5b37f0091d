"""The images of containers/image.def, built from a local root file system by containers/build.sh, and jobs inside them.

The definition is the real one. JAX comes without CUDA, PyTorch as it is published; %test runs in both builds.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cluster_jobs import REPOSITORY, anatobench
from record_schema import assert_valid
from virtual_cluster import VirtualCluster

from anatobench import __version__
from anatobench.engine import Arrays
from anatobench.parity.comparison import largest_difference
from anatobench.training.checkpoints import read_newest

SUPPORT = REPOSITORY / "tests" / "support"


@pytest.fixture(scope="module")
def base() -> tuple[Path, list[str], dict[str, str]]:
    """Return a root file system, the folders of pip's local indexes to bind, and pip's settings; kept in build/."""
    done = subprocess.run([SUPPORT / "install_apptainer.sh"], capture_output=True, text=True, check=False)
    if done.returncode or shutil.which("debootstrap") is None:
        pytest.skip(f"Apptainer cannot be installed here: {done.stderr.strip()[-200:]}")
    settings = pip_settings()
    folders = local_folders(settings)
    folder = REPOSITORY / "build" / "cluster" / "root_file_system"
    made = subprocess.run(
        [SUPPORT / "base_root_file_system.sh", folder, *folders], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no root file system can be made here: {made.stderr.strip()[-200:]}")
    return folder, folders, settings


def pip_settings() -> dict[str, str]:
    """Return what pip is told here of indexes, from its configuration and the environment, as environment variables."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(
        r"^(?:global|install|:env:)\.(index-url|extra-index-url|find-links)='(.*)'$", listed.stdout, re.M
    )
    return {"PIP_" + name.upper().replace("-", "_"): value.replace("\\n", " ").strip() for name, value in found}


def local_folders(settings: dict[str, str]) -> list[str]:
    """Return the folders of this machine that pip's settings name: to be bound, or the build would not see them."""
    words = [word.removeprefix("file://") for value in settings.values() for word in value.split()]
    folders = {Path(word).parent if Path(word).name == "simple" else Path(word) for word in words if word[0] == "/"}
    return sorted(str(folder) for folder in folders if folder.is_dir())


@pytest.fixture(scope="module")
def images(base: tuple[Path, list[str], dict[str, str]]) -> Iterator[Path]:
    """Yield a folder with torch.sif, a folder, and jax.sif, a file; any user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="anatobench-images-"))
    folder.chmod(0o755)
    root, binds, settings = base
    options = {
        "torch": ["--sandbox"],  # packing 6 GB takes minutes and shows nothing more
        "jax": ["--cuda", "none", "--mksquashfs-args=-comp zstd -Xcompression-level 1"],
    }

    def build(framework: str) -> None:
        further = [*options[framework], *(word for bind in binds for word in ("--bind", bind))]
        done = subprocess.run(
            [REPOSITORY / "containers" / "build.sh", framework, "--base", root, *further],
            cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert f"{framework}: prepared, trained and evaluated" in done.stdout + done.stderr, "%test ran"

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(build, options))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_an_image_holds_what_its_labels_say(images: Path, framework: str) -> None:
    """Versions, commit, CUDA and the driver it needs; libibverbs with the cards' providers; its sum beside it."""
    image = images / f"{framework}.sif"
    inspected = subprocess.run(["apptainer", "inspect", "--json", "--labels", image], capture_output=True, check=True)
    labels = json.loads(inspected.stdout)["data"]["attributes"]["labels"]
    commit = subprocess.run(
        ["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == commit
    assert labels["org.opencontainers.image.version"] == __version__
    cuda, driver = {"torch": ("13", "580"), "jax": ("none", "none")}[framework]
    assert (labels["org.anatobench.cuda"], labels["org.anatobench.oldest-driver"]) == (cuda, driver)
    told = inside(image, "anatobench-image")
    described = json.loads(told.stdout)
    assert labels[f"org.anatobench.{framework}"] == described["packages"][framework]
    assert described["commit"] == labels["org.opencontainers.image.revision"]
    digest = hashlib.sha256(image.read_bytes()).hexdigest() if image.is_file() else None
    assert described["digest"] == (f"sha256:{digest}" if digest else None), "a folder has none"
    assert (images / "jax.sif.sha256").read_text() == (
        f"{hashlib.sha256((images / 'jax.sif').read_bytes()).hexdigest()}  jax.sif\n"
    )
    libraries = inside(image, "ldconfig", "-p").stdout
    assert "libibverbs.so.1" in libraries
    assert "librdmacm.so.1" in libraries
    assert "libmlx5" in inside(image, "bash", "-c", "ls /usr/lib*/*/libibverbs").stdout
    said = inside(image, "bash", "-c", "echo $NCCL_DEBUG $XLA_FLAGS", NCCL_DEBUG="INFO", XLA_FLAGS="--x").stdout
    assert said.split() == ["INFO", "--x"], "an image overrules nothing of the node's"


def inside(image: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an image."""
    return subprocess.run(
        ["apptainer", "exec", "--pwd", "/tmp", image, *words],
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip


FLOAT64 = ("--steps", "3", "--set", "batch_size=4", "--set", "precision=fp64")


@pytest.fixture(scope="module")
def alone(store: Path, preloaded: Path) -> Callable[[str], Arrays]:
    """Return what gives a framework's weights after training in one process outside Slurm and images, once for each."""

    @cache
    def weights(framework: str) -> Arrays:
        pytest.importorskip(framework)
        run = store.parent / f"alone_{framework}"
        anatobench(preloaded, "train", "--task", "ratic", "--store", store, "--model", "r3d_18",
                   "--framework", framework, "--out", run, *FLOAT64)  # fmt: skip
        return trained_weights(run)

    return weights


def trained_weights(run: Path) -> Arrays:
    """Return those of the newest checkpoint."""
    checkpoint = read_newest(run)
    assert checkpoint is not None
    assert checkpoint.progress.step == 3
    return dict(checkpoint.weights)


@pytest.mark.parametrize(
    ("framework", "nodes", "tasks"), [("torch", 1, 1), ("torch", 2, 2), ("jax", 1, 2), ("jax", 2, 2)]
)
def test_a_job_in_the_image_trains_what_one_process_trains_outside(
    cluster: VirtualCluster,
    images: Path,
    store: Path,
    alone: Callable[[str], Arrays],
    framework: str,
    nodes: int,
    tasks: int,
    tmp_path: Path,
) -> None:
    """As many processes as `nodes` times `tasks`, and a copy of the store on each node's disk."""
    expected = alone(framework)
    job = cluster.submit(
        f"--nodes={nodes}", f"--gpus-per-node={tasks}", f"--output={tmp_path}/job.log",
        str(REPOSITORY / "slurm" / "train_ratic.sh"), f"--framework={framework}", "--store", str(store),
        "--out", str(tmp_path / "run"), "--device", "cpu", *FLOAT64,
        settings={f"ANATOBENCH_IMAGE_{framework.upper()}": str(images / f"{framework}.sif"),
                  "ANATOBENCH_VENV": "/nowhere", "ANATOBENCH_LOCAL_SCRATCH": str(tmp_path / "disk")},
    )  # fmt: skip
    end = cluster.finish(job, seconds=300)
    assert end["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    assert f"{nodes * tasks} task(s) on {nodes} node(s)" in (tmp_path / "job.log").read_text()
    image = images / f"{framework}.sif"
    (session,) = (json.loads(line) for line in (tmp_path / "run" / "sessions.jsonl").read_text().splitlines())
    digest = hashlib.sha256(image.read_bytes()).hexdigest() if image.is_file() else None
    assert session["image"]["digest"] == (f"sha256:{digest}" if digest else None)
    assert f"in {framework}.sif: AnatoBench {__version__}, commit " in (tmp_path / "job.log").read_text()
    found = trained_weights(tmp_path / "run")
    assert largest_difference(expected, found).error < 1e-9


def test_the_smoke_job_tells_that_a_job_with_a_gpu_computes_on_the_cpu(
    cluster: VirtualCluster, images: Path, tmp_path: Path
) -> None:
    job = cluster.submit(
        "--gpus-per-node=1", f"--output={tmp_path}/job.log", str(REPOSITORY / "slurm" / "smoke.sh"), "torch",
        settings={"ANATOBENCH_IMAGE_TORCH": str(images / "torch.sif")},
    )  # fmt: skip
    assert cluster.finish(job)["JobState"] == "FAILED"
    assert "would compute on the CPU" in (tmp_path / "job.log").read_text()


def site(images: Path, runs: Path) -> dict[str, str]:
    own = {f"ANATOBENCH_IMAGE_{name.upper()}": str(images / f"{name}.sif") for name in ("torch", "jax")}
    return {**own, "ANATOBENCH_VENV": "/nowhere", "ANATOBENCH_RUNS": str(runs), "ANATOBENCH_DEVICE": "cpu"}


def test_two_images_give_one_record_with_a_ratio(cluster: VirtualCluster, images: Path, tmp_path: Path) -> None:
    """In turns, from a job that has neither framework itself; each image's own code, which is this commit's. On two
    GPUs: the next two tests measure one."""
    job = cluster.submit(
        "--gpus-per-node=2", f"--output={tmp_path}/job.log", str(REPOSITORY / "slurm" / "compare.sh"),
        "--model", "r3d_18", "--geometry", "chest", "--precision", "bf16", "--size", "tiny", "--batch-size", "2",
        "--repeats", "2", "--gpus", "2", settings=site(images, tmp_path / "runs"),
    )  # fmt: skip
    assert cluster.finish(job, seconds=600)["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    record = json.loads((tmp_path / "runs" / f"compare-{job}.json").read_text())
    check_comparison(record, images)
    assert (record["processes"], [arm["device"]["count"] for arm in record["arms"]]) == (2, [2, 2])


def test_the_suite_takes_each_framework_from_its_image(cluster: VirtualCluster, images: Path, tmp_path: Path) -> None:
    words = ("--size", "tiny", "--models", "r3d_18", "--precision", "fp32", "--batch-size", "1", "--repeats", "2",
             "--peers", "none", "--minutes", "9", "--parts", "step_r3d_18")  # fmt: skip
    job = cluster.submit(
        "--gpus-per-node=1", f"--output={tmp_path}/job.log", str(REPOSITORY / "slurm" / "gpu_suite.sh"), *words,
        settings=site(images, tmp_path / "runs"),
    )  # fmt: skip
    assert cluster.finish(job, seconds=600)["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()
    record = json.loads((tmp_path / "runs" / f"gpu_suite-{job}.json").read_text())
    assert_valid(record, "gpu_suite")
    check_comparison(record["parts"]["step_r3d_18"]["record"], images)


def test_the_same_from_a_machine_without_slurm(images: Path) -> None:
    options = [word for name in ("torch", "jax") for word in ("--image", f"{name}={images / name}.sif")]
    done = subprocess.run(
        [sys.executable, "-m", "anatobench", "bench", "step", *options, "--model", "r3d_18", "--geometry", "chest",
         "--precision", "bf16", "--size", "tiny", "--batch-size", "1", "--repeats", "2", "--json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_comparison(json.loads(done.stdout.splitlines()[-1]), images)


def check_comparison(record: dict[str, Any], images: Path) -> None:
    torch, jax = record["arms"]
    assert torch["home"] == {"image": str(images / "torch.sif"), "sha256": None}, "a folder has no sum"
    sha256 = hashlib.sha256((images / "jax.sif").read_bytes()).hexdigest()
    assert jax["home"] == {"image": str(images / "jax.sif"), "sha256": sha256}
    assert [arm["code"]["image"]["framework"] for arm in (torch, jax)] == ["torch", "jax"]
    assert jax["code"]["image"]["digest"] == f"sha256:{sha256}"
    assert record["same_first_loss"] is True
    (ratio,) = record["ratios"]
    assert (ratio["of"], ratio["to"]) == ("jax", "torch")
    assert ratio["ci95"][0] <= ratio["ratio"] <= ratio["ci95"][1]


def test_the_image_needs_no_rights_and_no_network_and_takes_no_python_from_outside(images: Path) -> None:
    (images / "host" / "anatobench").mkdir(parents=True)
    (images / "host" / "anatobench" / "__init__.py").write_text("raise SystemExit('code of the host')")
    done = subprocess.run(
        ["unshare", "--net", "runuser", "-u", "nobody", "--", "env", "HOME=/nonexistent", f"PYTHONPATH={images}/host",
         "apptainer", "exec", "--pwd", "/tmp", images / "torch.sif", "anatobench", "bench", "step", "--framework",
         "torch", "--model", "r3d_18", "--geometry", "abdomen", "--size", "tiny", "--batch-size", "1",
         "--repeats", "2", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["framework"] == "torch"
