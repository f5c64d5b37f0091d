"""`anatobench bench MEASUREMENT`: each measurement is a module `bench_<name>` beside this one."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

from anatobench.system.gpus import DEVICE_VARIABLE, insist_on_cpu

MEASUREMENTS = {
    "step": "forward, backward and optimizer step on random scans",
    "memory": "the largest batch that fits, and bytes per case",
    "load": "volumes per second from a store, beside a plain copy and what a device consumes",
    "prepare": "volumes per second of the whole preparation for one or several numbers of processes",
    "train": "training end to end, with loading and with the same batch over and over",
    "scaling": "step time of 1 to N processes, and a prediction for 8, 64 and 512 GPUs",
    "mllog": "whether a log of `train --mllog` has MLPerf's keys in their order",
    "compare": "what got slower or faster between two records",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `--help`."""
    measurements = parser.add_subparsers(dest="measurement", metavar="MEASUREMENT", required=True)
    for name, summary in MEASUREMENTS.items():
        module = importlib.import_module(f"anatobench.cli.bench_{name}")
        subparser = measurements.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        subparser.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Measure; the record, or None in one of several processes that does not lead."""
    if os.environ.get(DEVICE_VARIABLE) == "cpu":
        insist_on_cpu()
    record: dict[str, Any] | None = args.measure(args)
    return record
