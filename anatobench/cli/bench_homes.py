"""Options of `bench step` and `bench memory` that say where a framework is, if not here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anatobench.errors import UsageError
from anatobench.recipes import FRAMEWORKS

if TYPE_CHECKING:
    from anatobench.bench.arm_homes import Home

HOMES = {
    "image": "the image with framework F, by Apptainer (or what ANATOBENCH_CONTAINER names); may be repeated",
    "python": "the interpreter of the virtual environment with framework F; may be repeated",
    "served": "the named pipe of somebody who starts processes with framework F, as slurm/job.sh does; may be repeated",
}
"""Each stands for --framework F, too."""


def add_home_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    for option, what in HOMES.items():
        parser.add_argument(f"--{option}", action="append", default=[], type=_home, metavar="F=PATH", help=what)


def homes_of(args: argparse.Namespace) -> dict[str, Home]:
    """Framework to where it is. `UsageError` if one has two places, or one that is not there."""
    from anatobench.bench.arm_homes import Image, Interpreter, Served

    kinds: dict[str, type[Image] | type[Interpreter] | type[Served]] = {
        "image": Image, "python": Interpreter, "served": Served,
    }  # fmt: skip
    homes: dict[str, Home] = {}
    for option, kind in kinds.items():
        for framework, path in getattr(args, option):
            if framework in homes:
                raise UsageError(f"--{option} {framework}={path}: {framework} has a place already")
            if not path.exists():
                raise UsageError(f"--{option} {framework}={path}: not there")
            homes[framework] = kind(path)
    return homes


def _home(text: str) -> tuple[str, Path]:
    framework, _, path = text.partition("=")
    if framework not in FRAMEWORKS or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: write F=PATH with F one of {', '.join(FRAMEWORKS)}")
    return framework, Path(path).absolute()
