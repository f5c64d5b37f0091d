"""The grid as one Slurm job array: an element trains and evaluates one cell (slurm/experiments.sh)."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anatobench
from anatobench.errors import AnatoBenchError
from anatobench.experiments.grid import Cell
from anatobench.experiments.grid_runs import GridSettings, logs_folder, run_folder, train_options
from anatobench.system.atomic_files import write_atomically

REPOSITORY_VARIABLE = "ANATOBENCH_REPOSITORY"
SCRIPT = Path("slurm") / "experiments.sh"


@dataclass(frozen=True)
class Submission:
    """A job array that is ready to be submitted."""

    plan: Path
    """A line per element: task, run's folder and train's options, separated by tabs."""
    repository: Path
    command: tuple[str, ...]

    @property
    def line(self) -> str:
        """For a shell."""
        return f"{REPOSITORY_VARIABLE}={shlex.quote(str(self.repository))} {shlex.join(self.command)}"


def submission(
    cells: Sequence[Cell], settings: GridSettings, out: Path, at_a_time: int | None, options: Sequence[str]
) -> Submission:
    """Write the plan of these cells. `at_a_time` limits the elements that run together, `options` are sbatch's own."""
    repository = _repository()
    lines = [
        [cell.condition.dataset, str(run_folder(out, cell).resolve()), *train_options(cell, settings)] for cell in cells
    ]
    if any("\t" in word or "\n" in word for line in lines for word in line):
        raise AnatoBenchError(f"{out}: paths with tabs or line breaks cannot be submitted: choose other folders")
    content = "".join("\t".join(line) + "\n" for line in lines).encode()
    plan = (out / "plans" / f"{hashlib.blake2b(content, digest_size=6).hexdigest()}.tsv").resolve()
    plan.parent.mkdir(parents=True, exist_ok=True)
    logs = logs_folder(out).resolve()
    logs.mkdir(exist_ok=True)
    write_atomically(plan, content)
    limit = "" if at_a_time is None else f"%{at_a_time}"
    command = ("sbatch", "--parsable", f"--array=0-{len(cells) - 1}{limit}", f"--output={logs}/%x-%A_%a.log", *options,
               str(repository / SCRIPT), str(plan))  # fmt: skip
    return Submission(plan, repository, command)


def submit(ready: Submission) -> str:
    """Submit it; the job's id."""
    if shutil.which(ready.command[0]) is None:
        raise AnatoBenchError("sbatch: not found, so this machine has no Slurm: use `grid run`, or submit elsewhere")
    environment = {**os.environ, REPOSITORY_VARIABLE: str(ready.repository)}
    done = subprocess.run(ready.command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise AnatoBenchError(f"sbatch: {said}: nothing was submitted; the command was: {ready.line}")
    return done.stdout.strip().split(";")[0]  # of a federation sbatch names the cluster, too


def _repository() -> Path:
    """The folder with slurm/: the jobs are not part of the installed package."""
    asked = os.environ.get(REPOSITORY_VARIABLE)
    folders = [Path(asked)] if asked else [Path(anatobench.__file__).parents[1], Path.cwd()]
    for folder in folders:
        if (folder / SCRIPT).is_file():
            return folder.resolve()
    raise AnatoBenchError(f"{SCRIPT}: not in {' or '.join(map(str, folders))}: set {REPOSITORY_VARIABLE}")
