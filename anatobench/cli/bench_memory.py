"""Search for the largest batch that fits, and what a case costs in memory. Needs no data set.

  anatobench bench memory --framework jax --model r3d_18 --geometry chest --precision bf16
  anatobench bench memory --framework torch --model r3d_18 --geometry chest --size tiny --limit 0.5

Every probe is a process of its own, which may run out of memory without harm.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anatobench.cli.arguments import positive, share, whole
from anatobench.cli.bench_homes import add_home_arguments, homes_of
from anatobench.cli.bench_step import add_cache_argument, add_model_arguments, peer, task_and_recipe
from anatobench.errors import UsageError
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import FRAMEWORKS
from anatobench.system.progress import named_on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--framework", choices=FRAMEWORKS)
    what.add_argument("--peer", type=peer, metavar="FILE.py:VARIANT", help="another implementation")
    add_home_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--no-seg", action="store_true", help="without the segmentation branch")
    parser.add_argument(
        "--limit", type=positive, metavar="GIB",
        help="as if there were no more memory than this (default: the GPU's; half of what a CPU's machine has free)",
    )  # fmt: skip
    parser.add_argument("--margin", type=share, default=0.1, help="share to leave free (default: %(default)s)")
    parser.add_argument("--at-most", type=whole(1), default=4096, help="largest batch to try (default: %(default)s)")
    parser.add_argument("--first-batch", type=whole(1), default=1, help="the batch to try first (default: %(default)s)")
    parser.add_argument("--seconds", type=positive, help="end after so long, with what is known by then")
    add_cache_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Search; the record."""
    from anatobench.bench.arms import Arm
    from anatobench.bench.memory import MemoryBenchmark, bench_memory
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.engine import ModelSpec
    from anatobench.system.host import describe_host

    path, variants = args.peer or (Path(), ("",))
    if len(variants) != 1:
        raise UsageError("--peer: one variant at a time")
    task, recipe = task_and_recipe(args)
    homes = homes_of(args)
    frameworks = sorted({*homes, *([args.framework] if args.framework else [])})
    if len(frameworks) + bool(args.peer) != 1:
        raise UsageError("name one thing to measure: --framework, --image, --python or --peer")
    arm = Arm(None, path, variants[0]) if args.peer else Arm(frameworks[0], home=homes.get(frameworks[0]))
    crop_size = task.geometry(args.size).crop_size
    asked = MemoryBenchmark(
        arm=dataclasses.replace(arm, segmentation=not args.no_seg),
        spec=ModelSpec(args.model, args.size, task, crop_size, diagnosis_heads(not args.no_seg)),
        recipe=recipe,
        limit=None if args.limit is None else int(args.limit * 2**30),
        margin=args.margin,
        first=args.first_batch,
        at_most=args.at_most,
        cache=args.cache,
        seconds=args.seconds,
    )
    warn_if_busy(describe_host())
    with tqdm(desc="bench memory", unit="probe", file=sys.stderr, leave=False, disable=None) as bar:
        record = bench_memory(asked, named_on(bar))
    print_memory(record)
    return record


def beyond(record: Mapping[str, Any]) -> str:
    """Return what is known of larger batches than the largest that fits."""
    smallest = record["smallest_not_fitting"]
    found = "no larger one was tried" if smallest is None else f"{smallest} does not"
    return found if record["complete"] else f"{found} (the time was up)"


def print_memory(record: dict[str, Any]) -> None:
    """For a person."""
    limit = "unknown" if record["limit_bytes"] is None else f"{record['limit_bytes'] / 2**30:.2f} GiB"
    print(
        f"{record['name']} {record['model']} ({record['size']}, {record['geometry']}, {record['precision']}): batch "
        f"{record['largest_batch']} fits into {limit}, {beyond(record)}; "
        f"{record['bytes_per_case'] / 2**20:.1f} MiB per case; with {100 * record['margin']:.0f} % to spare "
        f"{record['recommended_batch']}; on {record['device']['name']}",
    )
    for warning in record["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
