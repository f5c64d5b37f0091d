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
"""In a line for a shell: the id of the array that this one waits for."""


@dataclass(frozen=True)
class Submission:
    """A job array that is ready to be submitted."""

    plan: Path
    """A line per element: task, run's folder and train's options, separated by tabs."""
    repository: Path
    options: tuple[str, ...]
    """sbatch's."""
    waits: bool = False
    """Whether it can only begin after the array before it: its runs begin with that one's initial weights."""

    def command(self, earlier: str) -> tuple[str, ...]:
        """The words of sbatch; `earlier` is the id of the array before."""
        dependency = (f"--dependency=afterok:{earlier}", "--kill-on-invalid-dep=yes") if self.waits else ()
        return ("sbatch", "--parsable", *dependency, *self.options, str(self.repository / SCRIPT), str(self.plan))

    @property
    def line(self) -> str:
        """For a shell, in which `job` is the id of the array before."""
        words = [f'"{word}"' if EARLIER in word else shlex.quote(word) for word in self.command(EARLIER)]
        return f"{REPOSITORY_VARIABLE}={shlex.quote(str(self.repository))} {' '.join(words)}"


def shell_lines(arrays: Sequence[Submission]) -> list[str]:
    """What to type to submit them in order."""
    return [*(f"job=$({array.line})" for array in arrays[:-1]), *(array.line for array in arrays[-1:])]


def submissions(
    runs: Sequence[PlannedRun], out: Path, at_a_time: int | None, options: Sequence[str]
) -> tuple[Submission, ...]:
    """Write the plans of these runs: those that need no other one, then those that begin with one's initial weights.

    `at_a_time` limits the elements of an array that run together, `options` are sbatch's own.
    """
    names = {run.name for run in runs}
    waiting = [run for run in runs if run.first in names]
    ready = [run for run in runs if run.first not in names]
    write_configs(runs, out)
    repository = _repository()
    arrays = [(ready, False), (waiting, True)]
    return tuple(_submission(part, out, repository, at_a_time, options, waits) for part, waits in arrays if part)


def _submission(
    runs: Sequence[PlannedRun], out: Path, repository: Path, at_a_time: int | None, options: Sequence[str], waits: bool
) -> Submission:
    lines = [_plan_line(run, out) for run in runs]
    if any("\t" in word or "\n" in word for line in lines for word in line):
        raise AnatoBenchError(f"{out}: paths with tabs or line breaks cannot be submitted: choose other folders")
    content = "".join("\t".join(line) + "\n" for line in lines).encode()
    plan = (out / "plans" / f"{hashlib.blake2b(content, digest_size=6).hexdigest()}.tsv").resolve()
    plan.parent.mkdir(parents=True, exist_ok=True)
    logs = logs_folder(out).resolve()
    logs.mkdir(exist_ok=True)
    write_atomically(plan, content)
    limit = "" if at_a_time is None else f"%{at_a_time}"
    array = (f"--array=0-{len(runs) - 1}{limit}", f"--output={logs}/%x-%A_%a.log")
    return Submission(plan, repository, (*array, *options), waits)


def _plan_line(run: PlannedRun, out: Path) -> list[str]:
    """slurm/train.sh reads no configuration: it is told the store and the framework, with which it finds its image."""
    config = run.config
    options = ["--config", str(config_file(out, run.name).resolve())]
    options += ["--store", config.store, "--framework", config.framework]
    return [config.task.name, str(run_folder(out, run.name).resolve()), *options]


def submit(arrays: Sequence[Submission]) -> list[str]:
    """Submit them in order; the jobs' ids."""
    jobs: list[str] = []
    for ready in arrays:
        command = ready.command(jobs[-1] if jobs else "")
        if shutil.which(command[0]) is None:
            raise AnatoBenchError("sbatch: not found, so this machine has no Slurm: run here, or submit elsewhere")
        environment = {**os.environ, REPOSITORY_VARIABLE: str(ready.repository)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            before = f"job {', '.join(jobs)} was" if jobs else "nothing was"
            raise AnatoBenchError(f"sbatch: {said}: {before} submitted; the command was: {ready.line}")
        jobs.append(done.stdout.strip().split(";")[0])  # of a federation sbatch names the cluster, too
    return jobs


def _repository() -> Path:
    """The folder with slurm/: the jobs are not part of the installed package."""
    asked = os.environ.get(REPOSITORY_VARIABLE)
    folders = [Path(asked)] if asked else [Path(anatobench.__file__).parents[1], Path.cwd()]
    for folder in folders:
        if (folder / SCRIPT).is_file():
            return folder.resolve()
    raise AnatoBenchError(f"{SCRIPT}: not in {' or '.join(map(str, folders))}: set {REPOSITORY_VARIABLE}")
