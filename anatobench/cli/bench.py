"""`anatobench bench MEASUREMENT`: what a training step, loading and the rest cost on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from anatobench.cli import bench_load, bench_prepare, bench_scaling, bench_train
from anatobench.errors import UsageError
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS, SIZES, paper_recipe
from anatobench.tasks import TASKS

GEOMETRIES = {"chest": "ct_rate", "abdomen": "ratic"}

IN_OWN_FILES = {
    "load": (bench_load, "volumes per second from a store, beside a plain copy and what a device consumes"),
    "prepare": (bench_prepare, "volumes per second of the whole preparation for one or several numbers of processes"),
    "train": (bench_train, "training end to end, with loading and with the same batch over and over"),
    "scaling": (bench_scaling, "step time of 1 to N processes, and a prediction for 8, 64 and 512 GPUs"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    measurements = parser.add_subparsers(dest="measurement", metavar="MEASUREMENT", required=True)
    step = measurements.add_parser(
        "step",
        help="forward, backward and optimizer step on random scans",
        description="Time forward, backward and optimizer step on random scans. Needs no data set.",
    )
    step.add_argument("--framework", required=True, choices=FRAMEWORKS)
    step.add_argument("--model", required=True, choices=MODELS)
    step.add_argument("--geometry", required=True, choices=tuple(GEOMETRIES), help="which crop size and which loss")
    step.add_argument("--size", choices=SIZES, default="full", help="full (the paper's) or tiny (for a CPU)")
    step.add_argument("--batch-size", type=int, help="cases per step (default: the paper's)")
    step.add_argument("--precision", choices=PRECISIONS, default="fp32")
    step.add_argument("--no-seg", action="store_true", help="without the segmentation branch")
    step.add_argument("--repeats", type=int, default=20, help="timed steps after the warm-up (default: 20)")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--json", action="store_true", help="print the record as one JSON object")
    for name, (module, summary) in IN_OWN_FILES.items():
        measurement = measurements.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(measurement)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.measurement in IN_OWN_FILES:
        module, _ = IN_OWN_FILES[args.measurement]
        return module.run(args)
    return _run_step(args)


def _run_step(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.bench.step import bench_step

    if args.repeats < 2:
        raise UsageError("--repeats: at least 2, so that there is an interval")
    task = TASKS[GEOMETRIES[args.geometry]]
    recipe = paper_recipe(task, args.model)
    recipe = dataclasses.replace(
        recipe,
        precision=args.precision,
        seed=args.seed,
        batch_size=recipe.batch_size if args.batch_size is None else args.batch_size,
    )
    record = bench_step(
        args.framework, args.model, args.size, task, recipe.batch_size, recipe, not args.no_seg, args.repeats
    )
    low, high = record["ci95_s"]
    utilisation = "" if record["mfu"] is None else f", {100 * record['mfu']:.1f} % of peak"
    print(
        f"{args.framework} {args.model} ({args.size}, {args.geometry}, batch {recipe.batch_size}, {args.precision}): "
        f"{record['median_s']:.3f} s per step [{low:.3f}, {high:.3f}], {record['samples_per_s']:.2f} cases per second"
        f"{utilisation}; first step {record['compile_s']:.1f} s; on {record['device']['name']}",
        file=sys.stderr,
    )
    return record
