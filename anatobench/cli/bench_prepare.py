"""`anatobench bench prepare`: how fast raw scans and masks become a store."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import whole
from anatobench.cli.bench_load import worker_counts
from anatobench.errors import UsageError
from anatobench.recipes import SIZES

if TYPE_CHECKING:
    from anatobench.bench.preparation import RawData

PHANTOMS = ("ratic", "ct_rate", "rad_chestct")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help=f"format of the raw data: {', '.join(PHANTOMS)} or manifest")
    parser.add_argument("--raw", type=Path, metavar="DIR", help="folder of the raw data (default: a synthetic cohort)")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="with --raw: folder of organ masks")
    parser.add_argument("--anatomy", choices=("chest", "abdomen"), help="with --dataset manifest")
    parser.add_argument(
        "--cases",
        type=whole(1),
        default=8,
        help="of the synthetic cohort, or the first of --raw (default: %(default)s)",
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="of the store and the synthetic cohort")
    parser.add_argument(
        "--workers", default="0,1,2", help="processes, one or several counts; 0: none (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=whole(2), default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.bench.preparation import bench_prepare
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.system.host import describe_host

    machine = describe_host()  # before a cohort is written
    workers = worker_counts(args.workers)
    with tempfile.TemporaryDirectory(prefix="anatobench-prepare-") as folder:
        raw = _raw_data(args, Path(folder))
        warn_if_busy(machine)
        record = bench_prepare(raw, workers, args.rounds, Path(folder))
    _tell(record)
    return record


def _raw_data(args: argparse.Namespace, scratch: Path) -> RawData:
    from anatobench.bench.preparation import RawData
    from anatobench.datasets.registry import list_cases

    given = {name: getattr(args, name) for name in ("masks", "anatomy") if getattr(args, name) is not None}
    root = args.raw or scratch / "raw"
    if args.raw is None:
        if args.dataset not in PHANTOMS or given:
            raise UsageError(f"without --raw: --dataset {' or '.join(PHANTOMS)}, and neither --masks nor --anatomy")
        _write_phantom(args, root)
        given = {"masks": root / "masks"} if (root / "masks").is_dir() else {}
    listing = list_cases(args.dataset, root, **given)
    listing = replace(listing, cases=listing.cases[: args.cases], rejected=())
    return RawData(args.dataset, root, listing, args.size, synthetic=args.raw is None)


def _write_phantom(args: argparse.Namespace, root: Path) -> None:
    from anatobench.phantom.cohort import write_cohort
    from anatobench.phantom.plan import CohortPlan

    plan = CohortPlan(format=args.dataset, size=args.size, seed=0, cases=args.cases, injuries="typical")
    write_cohort(root, plan, os.cpu_count() or 1)


def _tell(record: dict[str, Any]) -> None:
    data, host = record["data"], record["host"]
    lines = [
        f"{data['volumes']} volumes of {data['dataset']} ({data['size']}) on {host['cores']} cores of {host['cpu']}"
    ]
    for entry in record["results"]:
        efficiency = "" if entry["efficiency"] is None else f", efficiency {100 * entry['efficiency']:.0f} %"
        lines.append(
            f"  {entry['workers']} processes {entry['volumes_per_s']:7.2f} volumes per second, "
            f"{entry['volumes_per_s_per_core']:7.2f} per core{efficiency}"
        )
    print("\n".join(lines))
