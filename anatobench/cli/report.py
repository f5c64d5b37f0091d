"""`anatobench report RUN ... --out report.html`, and `report --benchmarks RECORD ...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.system.atomic_files import write_atomically
from anatobench.system.json_text import parse_json
from anatobench.system.progress import named_if_slow

RESULTS = Path("benchmarks/results")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="folder of a run (train's --out)")
    parser.add_argument(
        "--benchmarks", nargs="*", type=Path, metavar="RECORD",
        help="instead of runs: files of benchmark records, or folders of them (default: benchmarks/results)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (default: report.html)")
    parser.add_argument("--parity", type=Path, help="file with the JSON that `anatobench parity --json` printed")
    parser.add_argument("--title", help="title of the page (default: AnatoBench and the task, or benchmarks)")
    parser.add_argument("--json", action="store_true", help="print the page's path and the results as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.benchmarks is not None:
        if args.runs or args.parity:
            raise UsageError("--benchmarks: a page of its own: leave RUN and --parity out")
        if not args.benchmarks and not RESULTS.is_dir():
            raise UsageError(
                f"--benchmarks: no {RESULTS} here: name records or their folder, or call it from the repository"
            )
        return _benchmarks(args.benchmarks or [RESULTS], args.out, args.title)
    if not args.runs:
        raise UsageError("give the folder of at least one run, or --benchmarks")
    return _runs(args)


def _benchmarks(paths: list[Path], out: Path, title: str | None) -> dict[str, Any]:
    from anatobench.report.benchmark_page import build_benchmark_page
    from anatobench.report.benchmark_records import read_records

    records = read_records(paths)
    page = build_benchmark_page(records, title or "AnatoBench: benchmarks")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    for skipped in records.skipped:
        print(f"left out {skipped}", file=sys.stderr)
    print(f"wrote {out}")
    return {"report": str(out), "records": {kind: len(found) for kind, found in records.by_kind.items()}}


def _runs(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.report.page import build_page
    from anatobench.report.run_results import read_runs
    from anatobench.report.summary import HEADER, summary_rows, text_table

    runs = read_runs(args.runs)
    tasks = {run.config.task.name for run in runs}
    if len(tasks) > 1:
        raise UsageError(f"these runs are of different tasks ({', '.join(sorted(tasks))}): make one report per task")
    parity = read_parity(args.parity)
    with named_if_slow("report: drawing the page"):
        page = build_page(runs, parity, args.title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, page.encode())
    print(text_table(HEADER, summary_rows(runs)))
    print(f"wrote {args.out}")
    return {"report": str(args.out), "runs": {str(run.path): run.test for run in runs}}


def read_parity(path: Path | None) -> dict[str, Any] | None:
    """Return the last line of the file as JSON: what `parity --json` printed."""
    if path is None:
        return None
    try:
        parity: dict[str, Any] = parse_json(path.read_text().strip().splitlines()[-1])
        parity["passed"], parity["tolerance"], parity["max_rel_error"]
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, IndexError, KeyError, TypeError):
        raise AnatoBenchError(f"{path}: not the output of `anatobench parity --json`") from None
    return parity
