"""What the tests of the cluster's jobs share: the runs they compare, and processes on this machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STEPS = 24
TRAINING = ("--steps", str(STEPS), "--set", "batch_size=2", "--checkpoint-every", "5")


def install(*packages: str) -> bool:
    """Install Debian packages; False if that is not possible here. One process at a time."""
    if shutil.which("apt-get") is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with open("/tmp/anatobench-apt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        for words in (command, ["apt-get", "update", "-qq"], command):
            done = subprocess.run(words, env=environment, capture_output=True, check=False)
            if words is command and done.returncode == 0:
                return True
    return False


def anatobench(python: Path, *words: object) -> None:
    """Run a command of the suite here, outside Slurm, by that interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-m", "anatobench", *map(str, words)], env=environment, check=True)


def preparation(raw: Path, store: Path) -> list[str]:
    """Return `prepare`'s options for that cohort."""
    return ["--dataset", "ratic", "--size", "tiny", "--raw", str(raw), "--masks", str(raw / "masks"),
            "--store", str(store)]  # fmt: skip


def last_weights(run: Path) -> bytes:
    """Return the weights of the checkpoint of a finished run's last step."""
    return (run / "checkpoints" / f"step_{STEPS:08d}" / "model.safetensors").read_bytes()


def processes_with(*words: str) -> list[int]:
    """Ids of the Python processes with these words on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it just ended
            continue
        if "python" in Path(command[0]).name and set(words) <= set(command):
            found.append(int(folder.name))
    return found
