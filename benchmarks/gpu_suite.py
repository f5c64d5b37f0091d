"""Every question for one GPU in one go (see gpu_suite.sh): parity, steps beside the peers', the head's share, memory.

All programs are compiled first, several at a time, with parity beside them; then every part has the machine for itself
and takes them from the cache. A part or an arm that fails or runs out of time does not touch the others, and is named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anatobench.bench.arm_cache import FILLED, arm_cache
from anatobench.bench.arms import Arm
from anatobench.bench.commands import Job
from anatobench.bench.gpu_watch import watched_gpu
from anatobench.bench.quiet import busy_before, disturbances, gpu_use
from anatobench.bench.suite import (
    CHECK,
    COMPILE,
    DONE,
    Measurement,
    Plan,
    continued_record,
    describe_source,
    new_record,
    run_plan,
)
from anatobench.bench.suite_table import table
from anatobench.cli.bench_homes import add_home_arguments, homes_of
from anatobench.errors import UsageError
from anatobench.recipes import FRAMEWORKS, MODELS, SIZES, paper_recipe
from anatobench.system.atomic_files import write_atomically
from anatobench.system.gpus import visible_gpus
from anatobench.system.host import describe_host
from anatobench.system.signals import interrupted_by_signals
from anatobench.system.worker_pool import usable_cores
from anatobench.tasks import TASKS

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / "peers" / "step_torchvision.py"
TASK_OF = {"chest": "ct_rate", "abdomen": "ratic"}
PRECISIONS = ("fp32", "tf32", "bf16")
GATED, REPORTED = "float32", ("tensorfloat32", "bfloat16")
PEERS = {"fp32": "eager,compile", "tf32": "eager,compile", "bf16": "eager,autocast,compile_autocast"}
"""What users would pick instead, at each precision."""
COMPILED_PEERS = ("compile", "compile_autocast")
STEP_SECONDS, HEAD_SECONDS = 65.0, 55.0
CACHE_TAG = "CACHEDIR.TAG"
"""The Cache Directory Tagging Specification's file, and the sign that a folder is the suite's own to delete."""
TAG_CONTENT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Compiled programs of benchmarks/gpu_suite.sh\n"


def whole_plan(options: argparse.Namespace, cache: Path) -> Plan:
    """In order of importance; of the first phase what the most depends on, and takes longest, begins first."""
    what = ("--geometry", options.geometry, "--size", options.size, "--precision", options.precision)
    batch = () if options.batch_size is None else ("--batch-size", str(options.batch_size))
    step = ("bench", "step", *what, *batch, "--json")
    homes = homes_of(options)
    own = tuple(Arm(framework, home=homes.get(framework)) for framework in FRAMEWORKS)
    headless = tuple(replace(arm, segmentation=False) for arm in own)
    variants = () if options.peers == "none" else (options.peers or PEERS[options.precision]).split(",")
    peers = tuple(Arm(None, PEER, variant) for variant in variants)
    slow_peers = [arm for arm in peers if arm.variant in COMPILED_PEERS]

    def compilations(arms: Sequence[Arm], models: Sequence[str]) -> list[Job]:
        return [_compilation(step, model, arm, cache) for model in models for arm in arms]

    # One process compares the frameworks, so both must be where it is.
    gated, reported = ((GATED,), REPORTED) if not homes else ((), ())
    first = [
        *compilations(own, options.models),
        *(_parity(model, dtype, options) for model in options.models for dtype in gated),
        *compilations(slow_peers, options.models),
        *compilations(headless, options.models[:1]),
        *(_parity(model, dtype, options) for model in options.models for dtype in reported),
    ]
    limited = ("--seconds", "{seconds}", "--prepare-together", "--repeats", str(options.repeats))
    steps = [
        Measurement(
            f"step_{model}", model, (*step, *limited, "--model", model, "--cache", str(cache / model)),
            (*own, *peers), STEP_SECONDS,
        )
        for model in options.models
    ]  # fmt: skip
    model = options.models[0]
    of_model = ("--model", model, "--cache", str(cache / model))
    head = Measurement("head", model, (*step, *limited, *of_model), (*own, *headless), HEAD_SECONDS)
    first_batch = options.batch_size or paper_recipe(TASKS[TASK_OF[options.geometry]], model).batch_size
    limit = () if options.memory_limit is None else ("--limit", str(options.memory_limit))
    memory = ("bench", "memory", *what, *of_model, *limit, "--first-batch", str(first_batch), "--json")
    memories = [
        Measurement(f"memory_{arm.name}", model, (*memory, "--seconds", "{seconds}"), (arm,), 0.0) for arm in own
    ]
    return Plan(tuple(first), (*steps, head, *memories))


def _compilation(step: tuple[str, ...], model: str, arm: Arm, cache: Path) -> Job:
    if arm.framework:
        who = arm.home.option(arm.framework) if arm.home else ["--framework", arm.framework]
    else:
        who = ["--peer", f"{arm.peer}:{arm.variant}"]
    head = () if arm.segmentation else ("--no-seg",)
    words = (*step, "--compile-only", "--model", model, *who, *head, "--cache", str(cache / model))
    return Job(f"{COMPILE} {model} {arm.name}", words)


def _parity(model: str, dtype: str, options: argparse.Namespace) -> Job:
    """Compare a tiny model: what is compared is every layer's arithmetic on this device."""
    words = ("parity", "--model", model, "--task", TASK_OF[options.geometry], "--dtype", dtype)
    more = ("--steps", "0", "--backward", "--json")
    return Job(f"{CHECK} {model} {dtype}", (*words, *more))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="gpu_suite.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="the record (default: %(default)s)")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--continue", action="store_true", dest="go_on", help="add to the record what is missing in it")
    there.add_argument("--fresh", action="store_true", help="replace the record, if there is one, and its cache")
    add_home_arguments(parser)
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything together (default: %(default)s)")
    parser.add_argument(
        "--parts",
        metavar="NAME,...",
        help="only these: parity (where both frameworks are here), step_MODEL, head, memory_FRAMEWORK",
    )
    parser.add_argument("--models", default=",".join(MODELS), help="(default: %(default)s; head and memory: the first)")
    parser.add_argument("--geometry", choices=tuple(TASK_OF), default="chest")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of step, head and memory")
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny: to try the suite on a CPU")
    parser.add_argument("--batch-size", type=int, help="cases per step (default: the paper's)")
    parser.add_argument("--repeats", type=int, default=20, help="rounds of step and head (default: %(default)s)")
    parser.add_argument("--peers", help=f"variants of {PEER.name}, or none (default: by precision)")
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="for the search for the largest batch")
    parser.add_argument(
        "--jobs", type=int, default=max(1, min(8, usable_cores() * 3 // 8)),
        help="programs that compile at a time (default here: %(default)s; 1, with more --minutes, leaves each alone, "
        "its compile time and the kernels that autotuning picks undisturbed)",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="compiled programs, kept (default: beside the record until every part is done)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    options.models = options.models.split(",")
    if not set(options.models) <= set(MODELS) or len(set(options.models)) < len(options.models):
        parser.error(f"--models: choose from {', '.join(MODELS)}, each once")
    if options.minutes <= 0 or options.jobs < 1 or options.repeats < 2:
        parser.error("--minutes must be more than 0, --jobs at least 1, --repeats at least 2")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if every part is done, 1 if something is missing, 2 if nothing was begun, 130 if interrupted."""
    options = parse(argv)
    own_cache = options.out.with_suffix(".cache").absolute()
    cache = (options.cache or own_cache).absolute()
    try:
        plan = whole_plan(options, cache)
        if options.parts:
            names = options.parts.split(",")
            if unknown := sorted(set(names) - set(plan.parts())):
                raise UsageError(f"--parts: no part {', '.join(unknown)}: there are {', '.join(plan.parts())}")
            plan = plan.restricted(names)
        if options.size == "full" and not visible_gpus():
            raise UsageError(
                "no NVIDIA GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES): start it where there is one, or "
                "with --size tiny --models r3d_18 --precision fp32, which tries it on a CPU"
            )
        record = open_record(plan, options)
        if options.fresh and (own_cache / CACHE_TAG).is_file():
            shutil.rmtree(own_cache)
        cache.mkdir(parents=True, exist_ok=True)
        (cache / CACHE_TAG).write_bytes(TAG_CONTENT)
        status = measure(plan, record, options, cache)
    except (UsageError, OSError) as error:
        print(f"gpu_suite.sh: {error}", file=sys.stderr)
        return 2
    if status == 0 and cache == own_cache:
        shutil.rmtree(cache)
    return status


def open_record(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """Return a new one, or with --continue the one that is there. `UsageError` if one is in the way or cannot be
    continued."""
    about = {
        "kind": "gpu_suite",
        "geometry": options.geometry,
        "size": options.size,
        "precision": options.precision,
        "options": {
            name: getattr(options, name) for name in ("models", "batch_size", "repeats", "peers", "memory_limit")
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    code = describe_source([ROOT / name for name in ("anatobench", "torch_ref", "jax_impl", "benchmarks")])
    if options.out.exists() and not options.fresh:
        if not options.go_on:
            raise UsageError(f"{options.out} is there: --continue adds what is missing in it, --fresh begins anew")
        return continued_record(options.out, plan, about, code)
    return new_record(plan, about, code)


def measure(plan: Plan, record: dict[str, Any], options: argparse.Namespace, cache: Path) -> int:
    """Run the plan and write the record after every step of it; the exit status."""
    start, before = time.monotonic(), record["seconds"]
    host, gpu_before = describe_host(), gpu_use()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    disturbed = [*busy_before(host), *disturbances({"cores": host["cores"], "gpu_before": gpu_before})]
    disturbed = list(dict.fromkeys([*(record.get("machine") or {}).get("busy_before", []), *disturbed]))
    for warning in disturbed:
        print(f"warning: {warning}", file=sys.stderr)
    stopped = None
    with watched_gpu() as gpu:
        _refuse_other_machine(record, host, gpu.to_json(), options.out)
        print(
            f"{len(plan.first)} programs are compiled or compared first, {options.jobs} at a time, then measured in "
            f"{len(plan.measurements)} parts: at most {options.minutes:g} minutes",
            file=sys.stderr,
        )

        def save() -> None:
            record["seconds"] = round(before + time.monotonic() - start, 1)
            used = {"load_1m_after": os.getloadavg()[0], "gpu_before": gpu_before, "gpu": gpu.to_json()}
            record["machine"] = {**host, "busy_before": disturbed, **used}
            record["warnings"] = [*disturbed, *_warnings_of_parts(record)]
            write_atomically(options.out, json.dumps(record, indent=1).encode() + b"\n")

        def cached(key: str) -> bool:
            model, _, name = key.partition(" ")
            arms = {arm.name: arm for m in plan.measurements if m.model == model for arm in m.arms}
            return arm_cache(cache / model, arms[name]).state == FILLED

        save()
        try:
            with interrupted_by_signals():
                run_plan(plan, record, 60 * options.minutes, options.jobs, cached, save)
        except KeyboardInterrupt as interruption:
            stopped = str(interruption)
        save()
    for warning in record["warnings"][len(disturbed) :]:
        print(f"warning: {warning}", file=sys.stderr)
    print(table(record))
    missing = [name for name, part in record["parts"].items() if part["status"] != DONE]
    said = f"not done: {', '.join(missing)}; --continue takes them up" if missing else "every part is done"
    print(f"{options.out}: {record['seconds']:.0f} s in all; {said}{f'; {stopped}' if stopped else ''}")
    return 130 if stopped is not None else 1 if missing else 0


def _refuse_other_machine(record: dict[str, Any], host: dict[str, Any], gpu: dict[str, Any] | None, out: Path) -> None:
    machine = record.get("machine")
    if machine is None:
        return
    there = machine["cpu"], (machine["gpu"] or {}).get("name")
    here = host["cpu"], (gpu or {}).get("name")
    if there != here:
        raise UsageError(f"{out}: it is of another machine ({there}, here {here}): name another --out")


def _warnings_of_parts(record: dict[str, Any]) -> list[str]:
    found = []
    for name, part in record["parts"].items():
        records = part["record"] if isinstance(part["record"], list) else [part["record"]]
        found += [f"{name}: {warning}" for one in records if one for warning in one.get("warnings") or []]
    return found


if __name__ == "__main__":
    sys.exit(main())
