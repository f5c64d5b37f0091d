"""Every question for one GPU, as a list of `anatobench` commands with a time budget each (see gpu_suite.sh).

A part that fails or runs out of time does not touch the others; what a part leaves of its time goes to the next ones.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anatobench.atomic_files import write_atomically
from anatobench.bench.arms import XLA_MEMORY
from anatobench.bench.gpu_watch import watched_gpu
from anatobench.bench.host import describe_code, describe_host
from anatobench.recipes import FRAMEWORKS, MODELS, SIZES

PEER = Path(__file__).parent / "peers" / "step_torchvision.py"
PRECISIONS = ("fp32", "tf32", "bf16")
PARITY_DTYPES = ("float32", "tensorfloat32", "bfloat16")
PEERS = {"fp32": "eager,compile", "tf32": "eager,compile", "bf16": "eager,autocast,compile_autocast"}
"""What users would pick instead, at each precision."""
SHORTEST_PART = 10.0
"""Seconds below which nothing is started."""
SECONDS_TO_FINISH = 12.0
"""What a command needs after its own time limit, to write its record."""


@dataclass(frozen=True)
class Part:
    """Commands that run at the same time and answer one question."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    """The words of each, `{seconds}` in place of the time it may take."""
    budget: float
    """Seconds."""


def all_parts(options: argparse.Namespace) -> list[Part]:
    """In order of importance."""
    what = ("--geometry", options.geometry, "--size", options.size)
    both = ("--framework", ",".join(FRAMEWORKS))
    limited = ("--seconds", "{seconds}", "--json")
    peers = ("--peer", f"{PEER}:{options.peers or PEERS[options.precision]}")
    task = {"chest": "ct_rate", "abdomen": "ratic"}[options.geometry]
    # Of tiny models: what is compared is every layer's arithmetic on this device, and nine compile in a minute.
    parity = tuple(
        ("parity", "--model", model, "--task", task, "--dtype", dtype, "--steps", "0", "--backward", "--json")
        for model in options.models
        for dtype in PARITY_DTYPES
    )
    step = ("bench", "step", *both, *what, "--precision", options.precision, *_batch(options), "--prepare-together")
    memory = ("bench", "memory", *what, "--precision", options.precision, *_limit(options))
    return [
        Part("parity", parity, 90),
        *(Part(f"step_{model}", ((*step, *peers, "--model", model, *limited),), 105) for model in options.models),
        Part("head", ((*step, "--model", options.models[0], "--both-seg", *limited),), 65),
        *(
            Part(f"memory_{name}", ((*memory, "--framework", name, "--model", options.models[0], *limited),), 50)
            for name in FRAMEWORKS
        ),
    ]


def _batch(options: argparse.Namespace) -> tuple[str, ...]:
    return () if options.batch_size is None else ("--batch-size", str(options.batch_size))


def _limit(options: argparse.Namespace) -> tuple[str, ...]:
    return () if options.memory_limit is None else ("--limit", str(options.memory_limit))


def run_parts(parts: Sequence[Part], seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run one part after the other; yields each one's name and outcome when it is done."""
    start = time.monotonic()
    planned = 0.0
    for part in parts:
        planned += part.budget
        left = min(start + planned, start + seconds) - time.monotonic()
        if left < SHORTEST_PART:
            yield part.name, {"status": "skipped", "seconds": 0.0, "record": None, "error": "no time was left"}
        else:
            yield part.name, _run_part(part, left)


def _run_part(part: Part, seconds: float) -> dict[str, Any]:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-suite-") as name:
        running = [_Command(words, seconds, Path(name) / str(i)) for i, words in enumerate(part.commands)]
        outcomes = [command.outcome(start + seconds) for command in running]
    errors = [error for _, _, error in outcomes if error]
    status = "done"
    if errors:
        status = "timed out" if all(timed_out or not error for _, timed_out, error in outcomes) else "failed"
    records = [record for record, _, _ in outcomes]
    return {
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "record": records[0] if len(records) == 1 else records,
        "error": "; ".join(errors) or None,
    }


class _Command:
    """`anatobench WORDS` at work, in a process group of its own, so that its children end with it."""

    def __init__(self, words: Sequence[str], seconds: float, folder: Path) -> None:
        folder.mkdir()
        own = f"{max(seconds - SECONDS_TO_FINISH, seconds / 2):.1f}"
        self._words = [own if word == "{seconds}" else word for word in words]
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "anatobench", *self._words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**XLA_MEMORY, **os.environ},
                start_new_session=True,
            )

    def outcome(self, deadline: float) -> tuple[dict[str, Any] | None, bool, str | None]:
        """Its record if it printed one (a failed gate does), whether it ran out of time, what went wrong."""
        timed_out = False
        try:
            status = self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            timed_out, status = True, None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        try:
            record = json.loads(self._out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            record = None
        if status == 0:
            return record, False, None
        said = [line for line in self._err.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
        reason = "ran out of time" if timed_out else f"exit status {status}: {said[-1] if said else ''}"
        return record, timed_out, f"{' '.join(self._words[:4])}: {reason}"[:400]


def table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """A few lines for a person."""
    lines = []
    for name, part in parts.items():
        lines.append(
            f"{name}: {part['status']} in {part['seconds']:.0f} s{': ' if part['error'] else ''}{part['error'] or ''}"
        )
        records = part["record"] if isinstance(part["record"], list) else [part["record"]]
        for record in filter(None, records):
            lines += [f"  {line}" for line in _lines_of(name, record)]
    return "\n".join(lines)


def _lines_of(part: str, record: Mapping[str, Any]) -> Iterator[str]:
    if record.get("kind") == "step":
        for arm in record["arms"]:
            low, high = (1000 * bound for bound in arm["ci95_s"])
            yield (
                f"{record['model']} b{record['batch_size']} {arm['name']:28} {arm['precision']} "
                f"{1000 * arm['median_s']:8.1f} ms [{low:.1f}, {high:.1f}] {arm['samples_per_s']:7.2f}/s "
                f"{100 * arm['mfu']:5.1f} % {arm['peak_memory_bytes'] / 2**30:6.2f} GiB, first {arm['compile_s']:.1f} s"
            )
        for ratio in record["ratios"]:
            if part == "head" and ratio["of"] == f"{ratio['to']} without head":
                low, high = (1 - bound for bound in reversed(ratio["ci95"]))
                share = f"{100 * (1 - ratio['ratio']):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
                yield f"the head's share of {ratio['to']}'s step: {share}"
            elif part != "head" and ratio["to"] == record["arms"][0]["name"]:
                low, high = ratio["ci95"]
                yield f"{ratio['of']} / {ratio['to']}: {ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        for name, failure in record["failed"].items():
            yield f"{name} failed: {failure['error']}"
    elif record.get("kind") == "memory":
        yield (
            f"{record['model']} {record['name']} {record['precision']}: batch {record['largest_batch']} fits, "
            f"{record['smallest_not_fitting'] or 'no larger one tried'} does not, "
            f"{record['bytes_per_case'] / 2**20:.0f} MiB per case"
        )
    elif "max_rel_error" in record:
        errors = ", ".join(f"{k} {e:.0e}" for k, e in record["max_rel_error"].items() if e is not None)
        verdict = "equal" if record["passed"] else f"DIFFERENT at {record['first_failure']}"
        yield f"{record['model']} {record['dtype']}: {verdict if record['tolerance'] else 'reported'} ({errors})"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 1 if no part was done."""
    parser = argparse.ArgumentParser(prog="gpu_suite.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="the record (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything together (default: %(default)s)")
    parser.add_argument("--parts", metavar="NAME,...", help="only these: parity, step_MODEL, head, memory_FRAMEWORK")
    parser.add_argument("--models", default=",".join(MODELS), help="(default: %(default)s)")
    parser.add_argument("--geometry", choices=("chest", "abdomen"), default="chest")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of step, head and memory")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: to try the suite on a CPU")
    parser.add_argument("--batch-size", type=int, help="cases per step (default: the paper's)")
    parser.add_argument("--peers", help=f"variants of {PEER.name} (default: by precision)")
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="for the search for the largest batch")
    options = parser.parse_args(argv)
    options.models = options.models.split(",")
    if not set(options.models) <= set(MODELS):
        parser.error(f"--models: choose from {', '.join(MODELS)}")
    parts = all_parts(options)
    if options.parts:
        names = options.parts.split(",")
        if unknown := sorted(set(names) - {part.name for part in parts}):
            parser.error(f"--parts: no part {', '.join(unknown)}: there are {', '.join(p.name for p in parts)}")
        parts = [part for part in parts if part.name in names]
    return measure(parts, options)


def measure(parts: Sequence[Part], options: argparse.Namespace) -> int:
    """Run the parts and write the record after each."""
    start = time.monotonic()
    record: dict[str, Any] = {
        "kind": "gpu_suite",
        "geometry": options.geometry,
        "size": options.size,
        "precision": options.precision,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": describe_code(),
        "parts": {},
    }
    host = describe_host()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with watched_gpu() as gpu:
        for name, outcome in run_parts(parts, 60 * options.minutes):
            record["parts"][name] = outcome
            record["seconds"] = round(time.monotonic() - start, 1)
            record["machine"] = {**host, "load_1m_after": os.getloadavg()[0], "gpu": gpu.to_json()}
            write_atomically(options.out, json.dumps(record, indent=1).encode() + b"\n")
            print(f"{name}: {outcome['status']} after {record['seconds']:.0f} s", file=sys.stderr)
    print(table(record["parts"]))
    print(f"{options.out}: {record['seconds']:.0f} s in all")
    return 0 if any(part["status"] == "done" for part in record["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
