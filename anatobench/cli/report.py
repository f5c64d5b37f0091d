"""`anatobench report RUN ... --out report.html`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from anatobench.errors import AnatoBenchError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run (train's --out)")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (default: report.html)")
    parser.add_argument("--parity", type=Path, help="file with the JSON that `anatobench parity --json` printed")
    parser.add_argument("--title", default="AnatoBench", help="title of the page")
    parser.add_argument("--json", action="store_true", help="print the page's path and the results as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from anatobench.report.page import build_page
    from anatobench.report.run_results import read_runs
    from anatobench.report.summary import HEADER, summary_rows, text_table

    runs = read_runs(args.runs)
    tasks = {run.config.task.name for run in runs}
    if len(tasks) > 1:
        raise UsageError(f"these runs are of different tasks ({', '.join(sorted(tasks))}): make one report per task")
    page = build_page(runs, read_parity(args.parity), args.title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding="utf-8")
    print(text_table(HEADER, summary_rows(runs)), file=sys.stderr)
    print(f"wrote {args.out}", file=sys.stderr)
    return {"report": str(args.out), "runs": {str(run.path): run.test for run in runs}}


def read_parity(path: Path | None) -> dict[str, Any] | None:
    """The last line of the file as JSON: what `parity --json` printed."""
    if path is None:
        return None
    try:
        parity: dict[str, Any] = json.loads(path.read_text().strip().splitlines()[-1])
        parity["passed"], parity["tolerance"], parity["max_rel_error"]
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, IndexError, KeyError, TypeError):
        raise AnatoBenchError(f"{path}: not the output of `anatobench parity --json`") from None
    return parity
