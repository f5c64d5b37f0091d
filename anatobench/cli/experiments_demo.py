"""`anatobench experiments demo`: from raw scans to a small grid of experiments beside the paper."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import whole
from anatobench.cli.demo import run_command
from anatobench.phantom.plan import CohortPlan

TASK = "ratic"
FILTERS = ("--tables", "1,12", "--datasets", TASK, "--models", "r3d_18")
"""Two tables that share their runs: one model with and without segmentation, in both frameworks."""
CASES = 80
STEPS = 120
SEEDS = 2
RECIPE = ("--set", "batch_size=4", "--set", "learning_rate=4e-3")
"""A tiny model that is trained for a minute, not for days."""


def add_parser(experiments: Any) -> None:
    """`demo`, beside the other experiments."""
    demo = experiments.add_parser(
        "demo",
        help="raw scans -> masks -> store -> a small grid in both frameworks -> report, on a synthetic cohort",
        description="The whole way of the paper's experiments, small: write a synthetic cohort as raw DICOM series\n"
        "with organ masks, make the masks that lack (--unmasked), prepare it, train and evaluate one model of Table 1\n"
        "with and without segmentation supervision in both frameworks from several seeds, put the results beside the\n"
        "paper's, write a report. It prints every command as a person would call it. Under ten minutes on two cores;\n"
        "called again, it goes on where it stopped. Cohort and models are toys: the figures show that it works, not\n"
        "how well the method does.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--out", type=Path, default=Path("experiments-demo"), metavar="DIR",
                      help="folder for everything (default: %(default)s)")  # fmt: skip
    demo.add_argument("--cases", type=whole(40), default=CASES, help="synthetic patients (default: %(default)s)")
    demo.add_argument("--steps", type=whole(1), default=STEPS, help="of each run (default: %(default)s)")
    demo.add_argument("--seeds", type=whole(1), default=SEEDS, help="repetitions (default: %(default)s)")
    demo.add_argument("--unmasked", type=whole(0), default=0, metavar="N",
                      help="patients without masks, for TotalSegmentator to make (default: %(default)s)")  # fmt: skip
    demo.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    demo.set_defaults(run_experiment=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    CohortPlan(TASK, "tiny", 0, args.cases, "large", args.unmasked)  # refuses what `phantom` would, before it is called
    args.goes_on = True
    started = time.monotonic()
    for command in commands(args.out, args.cases, args.steps, args.seeds, args.unmasked):
        run_command(*command)
    page = args.out / "report.html"
    runs = sorted((args.out / "grid" / "runs").iterdir())
    run_command("report", *runs, "--title", "AnatoBench experiments demo", "--out", page)
    seconds = round(time.monotonic() - started, 1)
    return {"report": str(page), "record": str(args.out / "grid" / "record.json"), "seconds": seconds}


def commands(out: Path, cases: int, steps: int, seeds: int, unmasked: int = 0) -> Iterator[tuple[str, ...]]:
    """Yield what a person would call, in order, before the report; each goes on where it stopped."""
    raw, stores, grid = out / "raw", out / "stores", out / "grid"
    masks = raw / "masks"  # those that the cohort was drawn with
    workers = min(os.cpu_count() or 1, 4)
    yield ("phantom", "--format", TASK, "--size", "tiny", "--injuries", "large", "--cases", str(cases),
           "--unmasked", str(unmasked), "--out", str(raw))  # fmt: skip
    if unmasked:
        yield ("masks", "--dataset", TASK, "--raw", str(raw), "--out", str(masks), "--per-gpu", str(workers), "--check")
    yield ("prepare", "--dataset", TASK, "--size", "tiny", "--raw", str(raw), "--masks", str(masks),
           "--store", str(stores / TASK), "--validation-fraction", "0")  # fmt: skip
    selected = ("--out", str(grid), *FILTERS, "--seeds", str(seeds))
    yield ("experiments", "grid", "run", *selected, "--stores", str(stores), "--from-scratch", "--steps", str(steps),
           *RECIPE, "--workers", str(workers))  # fmt: skip
    yield ("experiments", "grid", "collect", *selected)
