"""Say what got slower or faster from one record to another, with intervals.

  anatobench bench compare before.json after.json --threshold 0.05

  anatobench bench compare torch.json jax.json --across-frameworks

Exit status 1 if the whole 95 % interval of something's ratio lies above 1 + threshold. The intervals are those within
the two runs: they do not hold what differs from run to run, which is what the threshold is for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    parser.add_argument("old", type=Path, help="record of bench step or of benchmarks/gpu_suite.sh")
    parser.add_argument("new", type=Path, help="the same, later")
    parser.add_argument(
        "--threshold", type=share, default=0.05, help="how much slower is too much, as a share (default: %(default)s)"
    )
    parser.add_argument(
        "--across-frameworks", action="store_true",
        help="the records are of two frameworks: the second's times to the first's. They were measured apart: "
        "slurm/compare.sh and `bench step --framework torch,jax` measure in turns, which is worth more",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare; the figures, `passed` among them."""
    from anatobench.bench.compare import compare

    figures = compare(args.old, args.new, args.threshold, args.across_frameworks)
    for change in figures["changes"]:
        low, high = change["ci95"]
        print(
            f"{change['verdict']:6}  {change['ratio']:.3f} [{low:.3f}, {high:.3f}]  "
            f"{change['old_s']:.4f} s -> {change['new_s']:.4f} s  {change['what']}",
        )
    if figures["across_frameworks"]:
        print("unpaired: measured in separate runs, so what differed between them is in the ratio")
    for place in ("old", "new"):
        for what in figures[f"only_in_{place}"]:
            print(f"only in {getattr(args, place)}: {what}")
    if not figures["same_machine"]:
        print("the two records are of different machines")
    if not figures["same_environment"]:
        print("different variables of the environment were set (`environment` in the records)")
    return figures
