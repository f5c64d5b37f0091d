"""Check a log of `anatobench train --mllog`: the form of its lines, which of MLPerf's keys are there, and their order.

  anatobench bench mllog runs/ratic/mlperf.log

It follows the rules for training of MLPerf's own compliance checker that hold for every benchmark, and knows no
benchmark's own rules. What is wrong is printed a line each, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    parser.add_argument("log", type=Path, metavar="FILE", help="RUN/mlperf.log, or any output with :::MLLOG lines")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check; what was found."""
    from anatobench.bench.mllog_check import check_mllog

    found = check_mllog(args.log)
    for problem in found["problems"]:
        print(f"{args.log}: {problem}")
    if found["passed"]:
        print(f"{args.log}: {sum(found['keys'].values())} lines in MLPerf's form and order")
    return found
