"""`anatobench phantom`: write a synthetic cohort as raw data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from anatobench.cli.arguments import SEED, whole
from anatobench.phantom.cohort import FORMATS, write_cohort
from anatobench.phantom.plan import INJURIES, CohortPlan
from anatobench.recipes import SIZES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a synthetic cohort as raw data in the format of a real data set: scans, organ masks and label tables.\n"
        "Findings are visible inside their organ only, and look-alikes stand elsewhere. The same arguments write the\n"
        "same bytes; a cohort that was interrupted is completed."
    )
    parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="data set whose format is written")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="new or empty folder for the cohort")
    parser.add_argument("--cases", required=True, type=whole(1), metavar="N", help="patients")
    parser.add_argument(
        "--size", choices=SIZES, default="full", help="full: realistic resolution; tiny: coarse scans for CPU work"
    )
    parser.add_argument(
        "--injuries",
        choices=INJURIES,
        default="typical",
        help="ratic alone: moderate ones are larger, stronger and more frequent, so that small models learn them; "
        "large ones larger still, with fewer look-alikes, for demonstrations",
    )
    parser.add_argument(
        "--unmasked", type=whole(0), default=0, metavar="N",
        help="the last N patients get no organ masks: `anatobench masks` makes them (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--partial", type=whole(0), default=0, metavar="SOURCES",
        help="patients come from so many sources, each of which drew a random part of the organs: masks are folders "
        "with one file per organ (default 0: every mask has every organ)",
    )  # fmt: skip
    parser.add_argument("--seed", type=SEED, default=0, help="another seed, another cohort (default 0)")
    parser.add_argument(
        "--workers", type=whole(1), default=os.cpu_count() or 1, metavar="W", help="processes (default: one per CPU)"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object on stdout")


def run(args: argparse.Namespace) -> dict[str, Any]:
    plan = CohortPlan(
        format=args.format,
        size=args.size,
        seed=args.seed,
        cases=args.cases,
        injuries=args.injuries,
        unmasked=args.unmasked,
        partial=args.partial,
    )
    args.goes_on = True
    summary = write_cohort(args.out, plan, args.workers)
    print(f"{summary['scans']} scans of {plan.cases} patients in {args.out}")
    for group, grades in summary["labels"].items():
        print(f"  {group}: " + ", ".join(f"{grade} {count}" for grade, count in grades.items()))
    return summary
