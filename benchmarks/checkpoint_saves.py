"""How long training stands still for a checkpoint: written beside training, and as it was before, while it waits.

    python benchmarks/checkpoint_saves.py [--framework torch,jax] [--model mvit_v2_s] [--size full] [--rounds 7]
        [--folder DIR] [--note TEXT] [--out FILE] [--json]

The state is a model's with both of AdamW's moments; no steps are taken. In every round each form has its turn: `before`
copies the state into numpy arrays, writes, flushes and seals it; `beside` returns when the next step may be taken, and
only that is `blocked`; the rest of it, until the checkpoint is sealed, is `sealed_s`. `cpu_s` is the processor time of
all threads in the same time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.bench.quiet import OtherWork
from anatobench.bench.record_file import add_record_options, hand_out
from anatobench.bench.rounds import Rounds, measure_in_turns, median_with_interval, processor_seconds
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.recipes import FRAMEWORKS, MODELS, SIZES, Recipe
from anatobench.system.host import describe_code, host_record
from anatobench.tasks import get_task
from anatobench.training.checkpoints import Checkpoint, CheckpointSaver, Progress, save_checkpoint

LIMIT_S = 0.2
"""What a save may take of training's time on two quiet cores."""


@dataclass
class Beside:
    """Saves beside training; `close` waits for the last one."""

    saver: CheckpointSaver
    begun: float = 0.0
    sealed_s: list[float] = field(default_factory=list)

    def begin(self, progress: Progress) -> Beside:
        """Return as soon as training may go on."""
        self.begun = time.perf_counter()
        self.saver.begin(progress)
        return self

    def close(self) -> None:
        """Wait until the checkpoint is sealed."""
        self.saver.wait()
        self.sealed_s.append(time.perf_counter() - self.begun)


def fill_moments(engine: Engine) -> int:
    """Give the moments random values, as training would; the state's bytes."""
    rng, state = np.random.default_rng(0), engine.state()
    optimizer = {
        name: np.asarray(rng.random(array.shape), array.dtype) if array.ndim else np.asarray(7, array.dtype)
        for name, array in state["optimizer"].items()
    }
    engine.load_state({"optimizer": optimizer})
    return sum(array.nbytes for arrays in state.values() for array in arrays.values())


def measure(framework: str, model: str, size: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the record's entry of one framework."""
    task = get_task("ct_rate")
    engine = load_engine(framework, ModelSpec(model, size, task, task.geometry(size).crop_size), Recipe())
    total, steps = fill_moments(engine), count(1)

    def progress() -> Progress:
        return Progress(next(steps), 0, {}, 0, None, framework, {})

    began, cpu = time.perf_counter(), processor_seconds()
    beside = Beside(CheckpointSaver(folder / "beside", engine.saver()))
    made_s, made_cpu_s = time.perf_counter() - began, processor_seconds() - cpu

    def before() -> None:
        save_checkpoint(folder / "before", Checkpoint(progress(), engine.state()))

    measured = measure_in_turns({"before": before, "beside": lambda: beside.begin(progress())}, rounds)
    beside.saver.close()
    engine.close()
    return {
        "framework": framework,
        "bytes": total,
        "made_saver": {"wall_s": made_s, "cpu_s": made_cpu_s},
        "before": _entry(measured["before"]),
        "beside": {**_entry(measured["beside"]), "sealed_s": median_with_interval(beside.sealed_s[1:])},
        "within_limit": bool(np.median(measured["beside"].wall_s) <= LIMIT_S),
    }


def _entry(rounds: Rounds) -> dict[str, Any]:
    return {
        "blocked_s": median_with_interval(rounds.wall_s),
        "blocked_s_least": float(rounds.wall_s.min()),
        "blocked_s_most": float(rounds.wall_s.max()),
        "cpu_s": median_with_interval(rounds.cpu_s),
    }


def _in_a_process(args: argparse.Namespace, framework: str, folder: Path) -> dict[str, Any]:
    """Measure one framework in a process that has not imported the other."""
    command = [sys.executable, __file__, "--only", framework, "--model", args.model, "--size", args.size,
               "--rounds", str(args.rounds), "--folder", str(folder)]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", default=",".join(FRAMEWORKS), help="one or several (default: %(default)s)")
    parser.add_argument("--model", choices=MODELS, default="mvit_v2_s", help="(default: %(default)s)")
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="disk to write to (default: the system's temporary folder)")
    parser.add_argument("--note", default="", help="a sentence for the record, such as what else the machine did")
    add_record_options(parser)
    parser.add_argument("--only", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error("--rounds: at least 2, or there is no interval")
    if args.only:
        print(json.dumps(measure(args.only, args.model, args.size, args.rounds, args.folder)))
        return 0
    others, load = OtherWork(), os.getloadavg()[0]
    entries = []
    for framework in args.framework.split(","):
        with tempfile.TemporaryDirectory(prefix="anatobench-saves-", dir=args.folder) as folder:
            entries.append(_in_a_process(args, framework, Path(folder)))
        print(_line(entries[-1]), file=sys.stderr)
    record = {
        "kind": "checkpoint_saves",
        "model": args.model,
        "size": args.size,
        "rounds": args.rounds,
        "limit_s": LIMIT_S,
        "host": {**host_record(), "load_1m": load, "other_cores": others.cores()},
        "code": describe_code(),
        "frameworks": entries,
        "note": args.note,
    }
    hand_out(record, args)
    return 0


def _line(entry: dict[str, Any]) -> str:
    before, beside = entry["before"]["blocked_s"]["median"], entry["beside"]["blocked_s"]["median"]
    sealed = entry["beside"]["sealed_s"]["median"]
    return (
        f"{entry['framework']}: {entry['bytes'] / 1e6:.0f} MB: training stood still for {before:.2f} s before, stands "
        f"still for {beside:.3f} s now; sealed {sealed:.2f} s after the beginning"
    )


if __name__ == "__main__":
    sys.exit(main())
