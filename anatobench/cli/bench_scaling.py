"""Step time and all-reduce bandwidth of 1 to N processes, and a prediction for 8, 64 and 512 GPUs.

  anatobench bench scaling --framework torch --model r3d_18 --geometry chest --processes 1,2,4
  srun -N2 --ntasks-per-node 4 anatobench bench scaling --together --framework torch ... --out torch-8.json
  anatobench bench scaling --framework torch ... --points torch-1.json torch-8.json --json

The first starts the processes here; `sbatch slurm/scaling.sh --nodes 1,2,4` does the other two for both frameworks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from anatobench.bench.communication_model import Links
from anatobench.bench.scaling_process import STRONG, WEAK, StepSettings
from anatobench.cli.arguments import SEED, TASK_OF_GEOMETRY, positive, whole
from anatobench.cli.bench_load import step_record_of, worker_counts
from anatobench.errors import UsageError
from anatobench.recipes import FRAMEWORKS, MODELS, PRECISIONS, SIZES
from anatobench.system.atomic_files import write_atomically

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
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--processes", default="1,2", help="counts, one per GPU at most (default: %(default)s)")
    how.add_argument(
        "--together", action="store_true",
        help="measure once, in the processes that srun, torchrun or mpirun started: one point of the curve",
    )  # fmt: skip
    how.add_argument("--points", nargs="+", type=Path, metavar="FILE", help="make the record of points that are there")
    parser.add_argument("--mode", choices=("weak", "strong", "both"), default="both")
    parser.add_argument("--repeats", type=whole(2), default=20, help="timed steps after the warm-up (default: 20)")
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument(
        "--step-record", type=Path, metavar="FILE", help="predict from this `bench step` record's seconds per step"
    )
    links = parser.add_argument_group("links of the prediction")
    for field in fields(Links):
        links.add_argument(
            f"--{field.name.replace('_', '-')}", type=positive if isinstance(field.default, float) else whole(1),
            help=f"{LINK_HELP[field.name]} (default: as measured, else {field.default:g})",
        )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the record there, too")
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Measure; the record, or None in a process that does not lead."""
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.bench.scaling import local_points, read_points, scaling_record
    from anatobench.bench.scaling_process import measure
    from anatobench.system.host import describe_host

    counts = worker_counts(args.processes, "--processes")
    if min(counts) < 1:
        raise UsageError(f"--processes {args.processes}: at least 1")
    settings, links = _settings(args), _links(args)
    step_s = None if args.step_record is None else step_record_of(args.step_record)["median_s"]
    if args.together:
        warn_if_busy(describe_host())
        point = measure(settings)
        _write(args.out, point)
        return point
    if args.points:
        points = read_points(args.points, settings)
    else:
        if STRONG in settings.modes and any(args.batch_size % count for count in counts):
            raise UsageError(f"--batch-size {args.batch_size}: cannot be shared evenly by {args.processes} processes")
        warn_if_busy(describe_host())
        points = local_points(settings, counts)
    record = scaling_record(settings, points, links, step_s)
    _write(args.out, record)
    _tell(record)
    return record


def _settings(args: argparse.Namespace) -> StepSettings:
    return StepSettings(
        framework=args.framework,
        model=args.model,
        size=args.size,
        task=TASK_OF_GEOMETRY[args.geometry],
        batch_size=args.batch_size,
        precision=args.precision,
        segmentation=not args.no_seg,
        repeats=args.repeats,
        modes={"weak": (WEAK,), "strong": (STRONG,), "both": (WEAK, STRONG)}[args.mode],
        seed=args.seed,
    )


def _links(args: argparse.Namespace) -> dict[str, float]:
    """Return those that were given."""
    given = {field.name: getattr(args, field.name) for field in fields(Links)}
    given = {name: value for name, value in given.items() if value is not None}
    if any(value <= 0 for value in given.values()):
        raise UsageError("bandwidths, latencies and GPUs per node: more than 0")
    return given


def _write(out: Path | None, record: dict[str, Any] | None) -> None:
    if out is not None and record is not None:
        write_atomically(out, json.dumps(record, allow_nan=False, indent=1).encode() + b"\n")


def _tell(record: dict[str, Any]) -> None:
    lines = [f"{record['framework']} {record['model']} ({record['size']}, {record['geometry']}, {record['precision']})"]
    for entry in record["results"]:
        low, high = entry["ci95_s"]
        lines.append(
            f"  {entry['mode']:6} {entry['processes']} processes on {entry['nodes']} node(s), "
            f"global batch {entry['global_batch']}: "
            f"{entry['median_s']:.4f} s per step [{low:.4f}, {high:.4f}], efficiency {100 * entry['efficiency']:.1f} %"
        )
    for entry in record["all_reduce"]:
        lines.append(
            f"  all-reduce of {entry['bytes'] / 1e6:.4g} MB by {entry['processes']} processes on {entry['nodes']} "
            f"node(s): {1e3 * entry['median_s']:.4g} ms, {entry['bus_bandwidth'] / 1e9:.4g} GB/s of a link"
        )
    lines.append("predicted, weak scaling (no overlap / full overlap of communication):")
    for entry in record["prediction"]["predictions"]:
        apart, overlapped = entry["no_overlap"]["efficiency"], entry["full_overlap"]["efficiency"]
        lines.append(f"  {entry['devices']:4} GPUs: efficiency {100 * apart:.1f} % / {100 * overlapped:.1f} %")
    lines += ["assumed:", *(f"  {sentence}" for sentence in record["prediction"]["assumptions"])]
    print("\n".join(lines))
