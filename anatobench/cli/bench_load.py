"""`anatobench bench load`: how fast crops come from a store."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anatobench.cli.arguments import TASK_OF_GEOMETRY, positive, whole
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.recipes import SIZES
from anatobench.system.json_text import parse_json
from anatobench.tasks import TASKS

if TYPE_CHECKING:
    from anatobench.store.reader import Store

DEFAULT_BATCH_SIZE = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--batch-size", type=whole(1), help=f"cases per batch (default: {DEFAULT_BATCH_SIZE}, or all)")
    parser.add_argument(
        "--workers", default="0,1,2", help="threads that read ahead, one or several counts (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=whole(2), default=7, help="rounds that count (default: %(default)s)")
    parser.add_argument("--round-batches", type=whole(1), default=10, help="batches of a round (default: %(default)s)")
    parser.add_argument(
        "--batches",
        type=whole(0),
        default=0,
        metavar="N",
        help="then load N batches more and watch memory (default: none)",
    )
    demand = parser.add_mutually_exclusive_group()
    demand.add_argument("--demand", type=positive, metavar="V", help="volumes per second that one device consumes")
    demand.add_argument("--step-record", type=Path, metavar="FILE", help="take that from a record of `bench step`")
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Ask where cases are loaded from; `open_source` opens it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--store", type=Path, metavar="DIR", help="a prepared store; its training cases are loaded")
    source.add_argument("--geometry", choices=TASK_OF_GEOMETRY, help="write a store of random scans and load from it")
    parser.add_argument("--size", choices=SIZES, default="full", help="with --geometry (default: %(default)s)")
    parser.add_argument("--cases", type=whole(1), default=1000, help="with --geometry: cases (default: %(default)s)")
    parser.add_argument(
        "--scans", type=whole(1), default=20, help="with --geometry: different files behind them (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.bench.loading import LoadPlan, bench_load
    from anatobench.bench.quiet import warn_if_busy
    from anatobench.system.host import describe_host

    machine = describe_host()  # before a store is written
    workers = worker_counts(args.workers)
    demand, source = demand_of(args.demand, args.step_record)
    with ExitStack() as stack:
        store = open_source(args, stack)
        plan = LoadPlan(
            batch_size=args.batch_size or min(DEFAULT_BATCH_SIZE, len(store.split("train"))),
            workers=workers,
            round_batches=args.round_batches,
            rounds=args.rounds,
            memory_batches=args.batches,
        )
        warn_if_busy(machine)
        record = bench_load(store, plan, demand, source)
    _tell(record)
    return record


def worker_counts(text: str, option: str = "--workers") -> tuple[int, ...]:
    """Return the numbers of a list separated by commas; `UsageError` if there is anything else in it."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise UsageError(f"{option} {text}: whole numbers separated by commas, such as 0,1,2")
    return tuple(dict.fromkeys(int(word) for word in words))


def demand_of(demand: float | None, step_record: Path | None) -> tuple[float | None, str]:
    """Volumes per second that a device consumes, and how that is known."""
    if step_record is not None:
        record = step_record_of(step_record)
        device = record.get("device") or {}
        what = [record.get("framework"), record.get("model"), record.get("precision"), device.get("name")]
        return record["samples_per_s"], " ".join(str(word) for word in what if word)
    return demand, "given" if demand is not None else ""


def step_record_of(path: Path) -> dict[str, Any]:
    """Return a record of `bench step`, read from the last line of a file; `AnatoBenchError` if it is none."""
    try:
        text = path.read_text().strip()
        record = parse_json(text if text.startswith("{") else text.splitlines()[-1])
        return {**record, "median_s": float(record["median_s"]), "samples_per_s": float(record["samples_per_s"])}
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise AnatoBenchError(f"{path}: not a record of `anatobench bench step --json`") from None


def open_source(args: argparse.Namespace, stack: ExitStack) -> Store:
    """Return the store given, or one of random scans that lives as long as the stack."""
    if args.store is not None:
        from anatobench.store.reader import Store

        return Store.open(args.store)
    from anatobench.bench.random_store import write_random_store

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="anatobench-load-"))
    return write_random_store(
        Path(folder) / "store", TASKS[TASK_OF_GEOMETRY[args.geometry]], args.size, args.cases, args.scans
    )


def _tell(record: dict[str, Any]) -> None:
    lines = [
        f"crops of {record['bytes_per_volume'] / 1e6:.1f} MB in batches of {record['batch_size']}, "
        f"on {record['host']['cores']} cores of {record['host']['cpu']}"
    ]
    for name, entry in [
        *((f"{entry['workers']} workers", entry) for entry in record["loaders"]),
        ("plain copy", record["plain_copy"]),
        *((f"{e['workers']} copies", e["plain_copies"]) for e in record["loaders"] if "plain_copies" in e),
        ("memory copy", record["memory_copy"]),
    ]:
        lines.append(
            f"  {name:12} {entry['volumes_per_s']:9.1f} volumes per second, "
            f"{entry['volumes_per_s_per_core']:9.1f} per core"
        )
    share = record["share_of_plain_copy"]
    low, high = share["ci95"]
    lines.append(f"  share of a plain copy's speed {share['ratio']:.2f} (95 %: {low:.2f} to {high:.2f})")
    for entry in record["loaders"]:
        if "share_of_plain_copies" in entry:
            low, high = entry["share_of_plain_copies"]["ci95"]
            lines.append(
                f"  {entry['workers']} workers reach {entry['share_of_plain_copies']['ratio']:.2f} of the speed of "
                f"as many plain copies at once (95 %: {low:.2f} to {high:.2f})"
            )
    if record["demand"]:
        demand = record["demand"]
        lines.append(
            f"  one device consumes {demand['volumes_per_s']:.1f} per second ({demand['source']}): loading is "
            f"{demand['times_demand']:.1f} times as fast, {demand['cores_needed']:.2f} cores would do"
        )
    if record["memory"]:
        memory = record["memory"]
        lines.append(
            f"  memory over {memory['batches']} batches: {memory['median_bytes'] / 1e6:.0f} MB, "
            f"{memory['growth_bytes'] / 1e6:+.1f} MB by its trend"
        )
    print("\n".join(lines))
