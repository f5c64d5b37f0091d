"""`anatobench experiments`: many runs that answer one question."""

from __future__ import annotations

import argparse
from typing import Any

from anatobench.cli import (
    experiments_auc,
    experiments_demo,
    experiments_grid,
    experiments_named,
    experiments_transfer,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(dest="experiment", metavar="EXPERIMENT", required=True)
    for one in (experiments_auc, experiments_grid, experiments_transfer, experiments_demo, experiments_named):
        one.add_parser(experiments)


def run(args: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = args.run_experiment(args)
    return figures
