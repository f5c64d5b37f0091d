"""`anatobench bench scaling`: step time of 1 to N processes here, and a prediction for 8, 64 and 512 GPUs."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from anatobench.bench.communication_model import Links
from anatobench.cli.arguments import SEED, TASK_OF_GEOMETRY, positive, whole
from anatobench.cli.bench_load import step_record_of, worker_counts
from anatobench.errors import UsageError
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS, SIZES

LINK_HELP = {
    "devices_per_node": "GPUs of a node",
    "node_bandwidth": "bytes per second and GPU within a node, one direction",
    "network_bandwidth": "bytes per second and GPU between nodes, one direction",
    "node_latency": "seconds of a message within a node",
    "network_latency": "seconds of a message between nodes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--framework", required=True, choices=FRAMEWORKS)
    parser.add_argument("--model", required=True, choices=MODELS)
    parser.add_argument("--geometry", required=True, choices=TASK_OF_GEOMETRY, help="which crop size and which loss")
    parser.add_argument("--size", choices=SIZES, default="full", help="full (the paper's) or tiny (for a CPU)")
    parser.add_argument(
        "--batch-size", type=whole(1), default=8,
        help="cases per process (weak), or of all processes together (strong) (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--no-seg", action="store_true", help="without the segmentation branch")
    parser.add_argument("--processes", default="1,2", help="counts, one per GPU at most (default: %(default)s)")
    parser.add_argument("--mode", choices=("weak", "strong", "both"), default="both")
    parser.add_argument("--repeats", type=whole(2), default=20, help="timed steps after the warm-up (default: 20)")
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument(
        "--step-record", type=Path, metavar="FILE", help="predict from this `bench step` record's seconds per step"
    )
    links = parser.add_argument_group("links of the prediction")
    for field in fields(Links):
        links.add_argument(
            f"--{field.name.replace('_', '-')}", default=field.default,
            type=positive if isinstance(field.default, float) else whole(1),
            help=f"{LINK_HELP[field.name]} (default: %(default)g)",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.bench.scaling import STRONG, WEAK, bench_scaling
    from anatobench.bench.scaling_process import StepSettings

    counts = worker_counts(args.processes, "--processes")
    if min(counts) < 1:
        raise UsageError(f"--processes {args.processes}: at least 1")
    modes = {"weak": (WEAK,), "strong": (STRONG,), "both": (WEAK, STRONG)}[args.mode]
    if STRONG in modes and any(args.batch_size % count for count in counts):
        raise UsageError(f"--batch-size {args.batch_size}: cannot be shared evenly by {args.processes} processes")
    links = Links(**{field.name: getattr(args, field.name) for field in fields(Links)})
    settings = StepSettings(
        framework=args.framework,
        model=args.model,
        size=args.size,
        task=TASK_OF_GEOMETRY[args.geometry],
        global_batch=args.batch_size,
        precision=args.precision,
        segmentation=not args.no_seg,
        repeats=args.repeats,
        seed=args.seed,
    )
    step_s = None if args.step_record is None else step_record_of(args.step_record)["median_s"]
    record = bench_scaling(settings, counts, modes, links, step_s)
    _tell(record)
    return record


def _tell(record: dict[str, Any]) -> None:
    lines = [f"{record['framework']} {record['model']} ({record['size']}, {record['geometry']}, {record['precision']})"]
    for entry in record["results"]:
        low, high = entry["ci95_s"]
        lines.append(
            f"  {entry['mode']:6} {entry['processes']} processes, global batch {entry['global_batch']}: "
            f"{entry['median_s']:.4f} s per step [{low:.4f}, {high:.4f}], efficiency {100 * entry['efficiency']:.1f} %"
        )
    lines.append("predicted, weak scaling (no overlap / full overlap of communication):")
    for entry in record["prediction"]["predictions"]:
        apart, overlapped = entry["no_overlap"]["efficiency"], entry["full_overlap"]["efficiency"]
        lines.append(f"  {entry['devices']:4} GPUs: efficiency {100 * apart:.1f} % / {100 * overlapped:.1f} %")
    lines += ["assumed:", *(f"  {sentence}" for sentence in record["prediction"]["assumptions"])]
    print("\n".join(lines))
