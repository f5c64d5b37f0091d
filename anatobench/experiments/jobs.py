"""Runs as Slurm job arrays: an element trains and evaluates one run (slurm/experiments.sh)."""

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
from anatobench.experiments.runs import PlannedRun, config_file, logs_folder, run_folder, write_configs
from anatobench.system.atomic_files import write_atomically

REPOSITORY_VARIABLE = "ANATOBENCH_REPOSITORY"
SCRIPT = Path("slurm") / "experiments.sh"
EARLIER = "$job"
"""In a command: the id of the array before this one."""


@dataclass(frozen=True)
class JobArray:
    """Runs that are ready to be submitted."""

    plan: Path
    """A line per element: task, run's folder and train's options, separated by tabs."""
    command: tuple[str, ...]

    @property
    def line(self) -> str:
        """Write it for a shell."""
        words = [f'"{word}"' if EARLIER in word else shlex.quote(word) for word in self.command]
        return f"{REPOSITORY_VARIABLE}={shlex.quote(str(_repository()))} {' '.join(words)}"


def job_arrays(
    runs: Sequence[PlannedRun], out: Path, at_a_time: int | None, options: Sequence[str]
) -> tuple[JobArray, ...]:
    """Write the plans of these runs: an array of those that need no other one, then one that waits for it, of those
    that begin with another's initial weights.

    `at_a_time` limits the elements of an array that run together, `options` are sbatch's own.
    """
    names = {run.name for run in runs}
    write_configs(runs, out)
    limit = "" if at_a_time is None else f"%{at_a_time}"
    waiting = (f"--dependency=afterok:{EARLIER}", "--kill-on-invalid-dep=yes")
    arrays = []
    for dependency in ((), waiting):
        part = [run for run in runs if (run.first in names) == bool(dependency)]
        if part:
            plan, log = _write_plan(part, out), f"{logs_folder(out).resolve()}/%x-%A_%a.log"
            array = (f"--array=0-{len(part) - 1}{limit}", f"--output={log}", *dependency)
            command = ("sbatch", "--parsable", *array, *options, str(_repository() / SCRIPT), str(plan))
            arrays.append(JobArray(plan, command))
    return tuple(arrays)


def _write_plan(runs: Sequence[PlannedRun], out: Path) -> Path:
    """Write a line per run. slurm/train.sh reads no configuration: it is told the store, and the framework, by which it
    finds its image."""
    lines = [
        [run.config.task.name, str(run_folder(out, run.name).resolve()), "--config",
         str(config_file(out, run.name).resolve()), "--store", run.config.store, "--framework", run.config.framework]
        for run in runs
    ]  # fmt: skip
    if any("\t" in word or "\n" in word for line in lines for word in line):
        raise AnatoBenchError(f"{out}: paths with tabs or line breaks cannot be submitted: choose other folders")
    content = "".join("\t".join(line) + "\n" for line in lines).encode()
    plan = (out / "plans" / f"{hashlib.blake2b(content, digest_size=6).hexdigest()}.tsv").resolve()
    for folder in (plan.parent, logs_folder(out)):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(plan, content)
    return plan


def shell_lines(arrays: Sequence[JobArray]) -> list[str]:
    """Return what to type to submit them in order."""
    return [*(f"job=$({array.line})" for array in arrays[:-1]), *(array.line for array in arrays[-1:])]


def submit(arrays: Sequence[JobArray]) -> list[str]:
    """Submit them in order and return the jobs' ids."""
    jobs: list[str] = []
    for array in arrays:
        command = [word.replace(EARLIER, jobs[-1] if jobs else "") for word in array.command]
        if shutil.which(command[0]) is None:
            raise AnatoBenchError("sbatch: not found, so this machine has no Slurm: run here, or submit elsewhere")
        environment = {**os.environ, REPOSITORY_VARIABLE: str(_repository())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            before = f"job {', '.join(jobs)} alone was" if jobs else "nothing was"
            raise AnatoBenchError(f"sbatch: {said}: {before} submitted; the command was: {array.line}")
        jobs.append(done.stdout.strip().split(";")[0])  # of a federation sbatch names the cluster, too
    return jobs


def _repository() -> Path:
    """Find the folder with slurm/: the jobs are not part of the installed package."""
    asked = os.environ.get(REPOSITORY_VARIABLE)
    folders = [Path(asked)] if asked else [Path(anatobench.__file__).parents[1], Path.cwd()]
    for folder in folders:
        if (folder / SCRIPT).is_file():
            return folder.resolve()
    raise AnatoBenchError(f"{SCRIPT}: not in {' or '.join(map(str, folders))}: set {REPOSITORY_VARIABLE}")
