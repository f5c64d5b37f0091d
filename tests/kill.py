"""Training that is killed while it writes checkpoints, again and again, and must end as if nothing had happened.

    python -m tests.kill --kills 1000 [--framework torch,jax] [--seconds S] [--seed 0] [--out FILE]
        [--json]

A run saves after every step. Each of its processes is killed (SIGKILL) at a random moment: half of them while a
checkpoint is on its way to the disk, half of them anywhere. After every kill all checkpoints that have a name must be
whole and the newest must be no older than before; when a run has reached its end its weights, moments and log must
equal, bit for bit, those of a run that nobody disturbed. Processes are forked from one that has imported everything and
started nothing of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from tiny_store import SMALL_FINDINGS, write_store

from anatobench.engine import framework_module
from anatobench.system.host import describe_code, host_record

STEPS = 12
KILLS_PER_RUN = 8
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # what one process has compiled the next one finds
}
LONGEST = 300.0
"""Seconds that a process may take; a good one takes a few."""


@dataclass
class Campaign:
    """What happened to one framework."""

    framework: str
    kills: int = 0
    while_writing: int = 0
    """Kills that left a checkpoint without its name."""
    ended_before: int = 0
    """Processes that were done before they could be killed."""
    runs: int = 0
    """That were killed, resumed to the end and equal to the undisturbed one."""
    findings: list[str] = field(default_factory=list)


def in_a_child(action: Callable[[], object], said: Path) -> int:
    """Fork a process that acts, with what it says in a file; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = int(bool(action()))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int, seconds: float = LONGEST) -> int:
    """Wait for a child; how it ended, as `os.waitstatus_to_exitcode` says it. One that hangs is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM


def training(store: Path, run: Path, framework: str) -> Callable[[], int]:
    """Return what a child does: the command."""
    words = ["train", "--task", "findings", "--store", str(store), "--model", "r3d_18", "--framework", framework,
             "--out", str(run), "--resume", "--steps", str(STEPS), "--set", "batch_size=2", "--set",
             "learning_rate=1e-3", "--checkpoint-every", "1"]  # fmt: skip

    def train() -> int:
        from anatobench.cli.main import main

        return main(words)

    return train


def looked_at(run: Path) -> dict[str, Any]:
    """Return what a run holds; to be called in a child, since tensorstore starts threads.

    `step` of the newest checkpoint, `damaged` ones by name, `digests` of the newest one's arrays and the `log` without
    its times.
    """
    from anatobench.errors import AnatoBenchError
    from anatobench.system.array_files import arrays_digest
    from anatobench.training.checkpoints import read_checkpoint

    found: dict[str, Any] = {"step": 0, "damaged": [], "digests": {}, "log": []}
    for folder in sorted((run / "checkpoints").glob("step_*")):
        try:
            checkpoint = read_checkpoint(folder)
        except AnatoBenchError as error:
            found["damaged"].append(str(error))
            continue
        found["step"] = checkpoint.progress.step
        found["digests"] = {tree: arrays_digest(arrays) for tree, arrays in checkpoint.trees.items()}
    log = run / "metrics.jsonl"
    for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
        if line.endswith("\n"):
            found["log"].append({name: value for name, value in json.loads(line).items() if name != "seconds"})
    return found


def look_at(run: Path, said: Path) -> dict[str, Any]:
    """Look at a run in a child."""
    answer = said.with_suffix(".json")
    answer.unlink(missing_ok=True)
    status = ended(in_a_child(lambda: answer.write_text(json.dumps(looked_at(run))) == 0, said))
    if status != 0 or not answer.exists():
        raise RuntimeError(f"a run could not be looked at ({status}): {said.read_text()[-2000:]}")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def kill_at_random(pid: int, run: Path, chance: random.Random, usual: float) -> int | None:
    """Kill a training process anywhere, or a random while after a checkpoint was begun; how it ended if it was done
    before."""
    wanted = chance.random() < 0.5
    begun_steps = chance.randint(1, 3)
    delay = chance.uniform(0, 0.15) if wanted else chance.uniform(0, usual)
    deadline, seen = time.monotonic() + LONGEST, set()
    while wanted and time.monotonic() < deadline:
        seen |= {path.name for path in (run / "checkpoints").glob(".step_????????.tmp")}
        if len(seen) >= begun_steps:
            break
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    time.sleep(delay)
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        return os.waitstatus_to_exitcode(status)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def campaign(framework: str, kills: int, seed: int, scratch: Path, seconds: float) -> Campaign:
    """Kill so often, or for about so long; a campaign ends at its first finding, whose folder stays."""
    result, chance = Campaign(framework), random.Random(f"{framework} {seed}")
    said, store, whole = scratch / "said.txt", scratch / "store", scratch / "whole"
    for name in ("anatobench.cli.main", "anatobench.session", "grain"):
        importlib.import_module(name)
    framework_module(framework, "engine")
    framework_module(framework, "saver")
    started = time.monotonic()
    if (status := ended(in_a_child(training(store, whole, framework), said))) != 0:
        raise RuntimeError(f"the undisturbed run ended with {status}: {said.read_text()[-2000:]}")
    usual, expected = time.monotonic() - started, look_at(whole, said)
    deadline = time.monotonic() + seconds
    while result.kills < kills and time.monotonic() < deadline:
        run, newest = scratch / "killed", 0
        shutil.rmtree(run, ignore_errors=True)
        for _ in range(min(KILLS_PER_RUN, kills - result.kills)):
            started = time.monotonic()
            by_itself = kill_at_random(in_a_child(training(store, run, framework), said), run, chance, usual)
            if by_itself is not None:
                usual = min(usual, time.monotonic() - started)  # the undisturbed one compiled, too
                result.ended_before += 1
                if by_itself != 0:
                    result.findings.append(f"a process ended by itself with {by_itself}: {said.read_text()[-2000:]}")
                    return result
                break
            result.kills += 1
            result.while_writing += bool(list((run / "checkpoints").glob(".step_????????.tmp")))
            found = look_at(run, said)
            if found["damaged"] or found["step"] < newest:
                result.findings.append(f"after kill {result.kills}: {found['damaged']}, step {found['step']}")
                return result
            newest = found["step"]
            if time.monotonic() > deadline:
                break
        status = ended(in_a_child(training(store, run, framework), said))
        found = look_at(run, said)
        if status != 0 or found != expected or list((run / "checkpoints").glob(".*")):
            parts = [name for name in expected if found[name] != expected[name]]
            result.findings.append(f"after {result.kills} kills a run ended with {status} and other {parts}")
            return result
        result.runs += 1
        print(f"{framework}: {result.kills} kills, {result.while_writing} while writing, {result.runs} runs equal",
              file=sys.stderr, flush=True)  # fmt: skip
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of all frameworks together (default: %(default)s)")
    parser.add_argument("--framework", default="torch,jax", help="one or several (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=math.inf,
                        help="end each framework's kills after about so long")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    parser.add_argument("--json", action="store_true", help="print the record as the last line of stdout")
    args = parser.parse_args(argv)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    frameworks = args.framework.split(",")
    record: dict[str, Any] = {"kind": "kill", "seed": args.seed, "steps": STEPS, "host": host_record(),
                              "code": describe_code(), "campaigns": []}  # fmt: skip
    for number, framework in enumerate(frameworks):
        share = args.kills // len(frameworks) + (number < args.kills % len(frameworks))
        scratch = Path(tempfile.mkdtemp(prefix=f"anatobench-kill-{framework}-"))
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(scratch / "compiled"))
        write_store(scratch / "store", SMALL_FINDINGS, {"train": 6, "validation": 2})
        # Each in a process of its own, so that none is forked from one that has imported both frameworks.
        answer = scratch / "campaign.json"

        def act(framework: str = framework, share: int = share, scratch: Path = scratch, answer: Path = answer) -> int:
            answer.write_text(json.dumps(asdict(campaign(framework, share, args.seed, scratch, args.seconds))))
            return 0

        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = act()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            return 1
        found = json.loads(answer.read_text())
        record["campaigns"].append(found)
        if found["findings"]:
            print(f"kill: {framework}: {'; '.join(found['findings'])}; see {scratch}", file=sys.stderr)
        else:
            shutil.rmtree(scratch)
        if args.out:  # also of a campaign that is ended early
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    if args.json:
        print(json.dumps(record))
    return int(any(found["findings"] for found in record["campaigns"]))


if __name__ == "__main__":
    sys.exit(main())
