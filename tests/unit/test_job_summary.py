"""slurm/summary.sh: one line per job from lines as `sacct` and `scontrol` write them."""

import os
import subprocess
from pathlib import Path

import pytest

SUMMARY = Path(__file__).parents[2] / "slurm" / "summary.sh"

# sacct --parsable2 --noheader --noconvert --format JobID,JobName,State,ExitCode,ElapsedRaw,AllocCPUS,TotalCPU,MaxRSS,
# AllocTRES, as Slurm 22 to 24 write it.
TRES = "billing=32,cpu=32,gres/gpu:a100=4,gres/gpu=4,mem=200G,node=1"
ENDED = f"""\
4711|ratic|COMPLETED|0:0|9000|32|1-02:40:00|||
4711.batch|batch|COMPLETED|0:0|9000|32|00:12.345|8123904K|cpu=32,gres/gpu:a100=4,gres/gpu=4,mem=200G,node=1
4711.extern|extern|COMPLETED|0:0|9000|32|00:00.001|0|{TRES}
4711.0|anatobench|COMPLETED|0:0|8990|32|1-02:39:47|43253760K|cpu=32,gres/gpu:a100=4,gres/gpu=4,mem=200G,node=1
""".replace("1-02:40:00|||", f"1-02:40:00||{TRES}", 1)
CANCELLED = """\
12_3|prepare|CANCELLED by 1000|0:15|75|8|01:30.000||billing=8,cpu=8,mem=16384M,node=1
12_3.batch|batch|CANCELLED|0:15|76|8|01:30.000|524288K|cpu=8,mem=16384M,node=1
"""
RUNNING = """\
9|ratic|RUNNING|0:0|100|4|00:00:00||billing=4,cpu=4,gres/gpu:h100=1,mem=8G,node=1
9.0|anatobench|COMPLETED|0:0|90|4|03:20.000|1048576K|cpu=4,gres/gpu=1,mem=8G,node=1
"""


def summary(folder: Path, *jobs: str, **tools: str) -> subprocess.CompletedProcess[str]:
    """Run it with these words in place of Slurm's programs' output; empty: the program fails."""
    for name in ("sacct", "scontrol"):
        (folder / f"{name}.said").write_text(tools.get(name, ""))
        (folder / name).write_text('#!/bin/bash\n[ -s "$0.said" ] && cat "$0.said"\n')
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run([SUMMARY, *jobs], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (ENDED, "job 4711 ratic: COMPLETED (exit 0:0) after 2:30:00, 4 GPUs, 10.00 GPU hours, memory of a task at most "
                "41.25 GiB (the job has 200), 33 % of 32 cores"),
        (CANCELLED, "job 12_3 prepare: CANCELLED (exit 0:15) after 0:01:15, memory of a task at most 0.50 GiB (the job "
                    "has 16), 15 % of 8 cores"),
        (RUNNING, "job 9 ratic: RUNNING (exit 0:0) after 0:01:40, 1 GPU, 0.03 GPU hours, memory of a task at most 1.00 "
                  "GiB (the job has 8), 50 % of 4 cores"),
    ],
)  # fmt: skip
def test_a_line_from_sacct(tmp_path: Path, said: str, line: str) -> None:
    done = summary(tmp_path, "4711", sacct=said)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == line + "\n"


def test_a_job_that_is_about_to_end_says_its_own_exit_status(tmp_path: Path) -> None:
    """Slurm still has it as running."""
    done = summary(tmp_path, "--ending", "1", "9", sacct=RUNNING)
    assert done.stdout.startswith("job 9 ratic: ends (exit 1:0) after 0:01:40, 1 GPU")
    assert summary(tmp_path, "--ending").returncode == 2


def test_an_arrays_elements_have_a_line_each(tmp_path: Path) -> None:
    done = summary(tmp_path, "12", sacct=CANCELLED + CANCELLED.replace("12_3", "12_4"))
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["job 12_3 prepare", "job 12_4 prepare"]


def test_without_accounting_scontrol_tells_what_it_knows(tmp_path: Path) -> None:
    said = (
        "JobId=7 JobName=smoke UserId=root(0) JobState=COMPLETED ExitCode=0:0 RunTime=1-00:30:00 NumCPUs=16 "
        "TRES=cpu=16,mem=16000M,node=1,billing=16,gres/gpu=2 Command=/x=y JobState=not_this\n"
    )
    done = summary(tmp_path, "7", scontrol=said)
    assert done.stdout == (
        "job 7 smoke: COMPLETED (exit 0:0) after 24:30:00, 2 GPUs, 49.00 GPU hours, memory not accounted, processor "
        "time not accounted\n"
    )


def test_an_unknown_job_is_one_line(tmp_path: Path) -> None:
    done = summary(tmp_path, "8")
    assert done.returncode == 1
    assert done.stderr == "summary.sh: 8: neither sacct nor scontrol knows this job\n"
    assert summary(tmp_path).returncode == 2
