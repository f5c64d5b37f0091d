"""`anatobench bench train`: training end to end, with loading and with the same batch over and over."""

from __future__ import annotations

import argparse
import dataclasses
from contextlib import ExitStack
from typing import Any

from anatobench.cli.arguments import SEED, whole
from anatobench.cli.bench_load import add_source_arguments, open_source
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS, paper_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--framework", required=True, choices=FRAMEWORKS)
    parser.add_argument("--model", required=True, choices=MODELS)
    parser.add_argument("--batch-size", type=whole(1), help="cases per step (default: the paper's)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--no-seg", action="store_true", help="without the segmentation branch")
    parser.add_argument("--workers", type=whole(0), default=2, help="threads that read ahead (default: %(default)s)")
    parser.add_argument("--rounds", type=whole(2), default=5, help="rounds that count (default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=20, help="steps of a round (default: %(default)s)")
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.bench.training_throughput import TrainingPlan, bench_train
    from anatobench.system.host import describe_host

    machine = describe_host()  # before a store is written
    with ExitStack() as stack:
        store = open_source(args, stack)
        recipe = paper_recipe(store.task, args.model)
        recipe = dataclasses.replace(
            recipe, precision=args.precision, seed=args.seed, batch_size=args.batch_size or recipe.batch_size
        )
        plan = TrainingPlan(args.framework, args.model, recipe, not args.no_seg, args.workers, args.steps, args.rounds)
        warn_if_busy(machine)
        record = bench_train(store, plan)
    _tell(record)
    return record


def _tell(record: dict[str, Any]) -> None:
    print(
        f"{record['framework']} {record['model']} ({record['size']}, {record['geometry']}, batch "
        f"{record['batch_size']}, {record['precision']}) on {record['device']['name']}:",
    )
    for name in ("with_loading", "same_batch", "loading_alone"):
        entry = record[name]
        low, high = entry["ci95_s"]
        print(
            f"  {name.replace('_', ' '):14} {entry['seconds_per_step']:.4f} s per step [{low:.4f}, {high:.4f}], "
            f"{entry['samples_per_s']:.2f} cases per second",
        )
    low, high = record["slowdown"]["ci95"]
    print(
        f"  with loading a step takes {record['slowdown']['ratio']:.3f} times as long (95 %: {low:.3f} to {high:.3f}): "
        f"the bottleneck is the {'loading' if record['bottleneck'] == 'loading' else 'device'}; "
        f"of loading, {record['digest_s']:.4f} s are the digest",
    )
