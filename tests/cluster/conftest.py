"""A virtual cluster, data to train on, and how to start this repository's jobs there.

These tests install packages and start daemons, so they run only where ANATOBENCH_CLUSTER_TESTS=1 says that they may.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, TRAINING, anatobench, install, last_weights, preparation
from virtual_cluster import VirtualCluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("ANATOBENCH_CLUSTER_TESTS") != "1":
        reason = "ANATOBENCH_CLUSTER_TESTS=1 is not set: these tests install packages and start daemons"
    elif os.geteuid() != 0:
        reason = "a virtual cluster needs root"
    else:
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def environment(preloaded: Path) -> Path:
    """Return what jobs take for a virtual environment: its processes have both frameworks imported already. (One job of
    test_training_jobs.py, and those of one framework alone, begin as a user's do.)"""
    folder = preloaded.parent / "environment" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / name).symlink_to(preloaded)
    for name, module in (("anatobench", "anatobench.cli.main"), ("torchrun", "torch.distributed.run")):
        called = 'if __name__ == "__main__":\n    sys.exit(main())\n'
        (folder / name).write_text(f"#!{preloaded}\nimport sys\nfrom {module} import main\n{called}")
        (folder / name).chmod(0o755)
    return folder.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> Iterator[VirtualCluster]:
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "munged")) and not install(
        "slurm-wlm", "munge"
    ):
        pytest.skip("Debian's packages slurm-wlm and munge cannot be installed here")
    port = 20000 + 10 * (os.getpid() % 1000)  # several test processes have a cluster each
    cluster = VirtualCluster(tmp_path_factory.mktemp("cluster"), port)
    for name in [name for name in cluster.environment if name.startswith(("SLURM_", "SBATCH_", "ANATOBENCH_"))]:
        if name != "SLURM_CONF":
            del cluster.environment[name]
    cluster.environment |= {
        "ANATOBENCH_REPOSITORY": str(REPOSITORY),
        "ANATOBENCH_VENV": str(environment),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory, preloaded: Path) -> Path:
    """Return a synthetic cohort in RATIC's format."""
    folder = tmp_path_factory.mktemp("data") / "raw"
    anatobench(
        preloaded, "phantom", "--format", "ratic", "--size", "tiny", "--cases", 12, "--workers", 1, "--out", folder
    )
    return folder


@pytest.fixture(scope="session")
def store(raw: Path, preloaded: Path) -> Path:
    """Return the cohort, prepared in one process."""
    folder = raw.parent / "store"
    anatobench(preloaded, "prepare", *preparation(raw, folder), "--workers", 0)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(store: Path, preloaded: Path) -> bytes:
    """Return the last weights of a run that nothing disturbed, outside Slurm."""
    run = store.parent / "uninterrupted"
    anatobench(preloaded, "train", "--task", "ratic", "--store", store, "--model", "r3d_18", "--framework", "torch",
               "--out", run, *TRAINING)  # fmt: skip
    return last_weights(run)
