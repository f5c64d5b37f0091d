"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

TASK_OF_GEOMETRY = {"chest": "ct_rate", "abdomen": "ratic"}
"""The task whose crops and losses the benchmarks take for `--geometry`."""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every failure is said, without the usage: a job's log has it once per task."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what is not known here, and not in the parser of the command above, whose help does not have it."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` explains)\n")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `least` up, or to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(
                f"{text!r}: give a whole number from {least} {'up' if most is None else f'to {most}'}"
            )
        return number

    return read


SEED = whole(0, 2**32 - 1)
"""Of what is drawn at random."""


def positive(text: str) -> float:
    """Return a number above 0, for argparse; infinity is none."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return number


def share(text: str) -> float:
    """Return a number from 0 to below 1, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to below 1")
    return number


def shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), for argparse."""
    index, slash, count = text.partition("/")
    try:
        if slash and 0 <= int(index) < int(count):
            return int(index), int(count)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: write I/N with I from 0 to N-1, for example 0/4")


def spacing(text: str) -> tuple[float, float, float]:
    """`D,H,W` in millimetres, for argparse."""
    try:
        depth, height, width = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give a spacing D,H,W in millimetres, for example 3,1.5,1.5"
        ) from None
    return depth, height, width


def crop(text: str) -> tuple[int, int, int]:
    """`D,H,W` in voxels, for argparse."""
    try:
        depth, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a crop D,H,W in voxels, for example 48,96,96") from None
    return depth, height, width


def window(text: str) -> tuple[float, float]:
    """`LOW,HIGH` in HU, for argparse."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a window LOW,HIGH in HU, for example =-150,250") from None
    return low, high
