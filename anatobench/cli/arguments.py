"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse

TASK_OF_GEOMETRY = {"chest": "ct_rate", "abdomen": "ratic"}
"""The task whose crops and losses the benchmarks take for `--geometry`."""


def shard(text: str) -> tuple[int, int]:
    """`I/N` as (I, N), for argparse."""
    index, slash, count = text.partition("/")
    try:
        if slash and 0 <= int(index) < int(count):
            return int(index), int(count)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: write I/N with I from 0 to N-1, for example 0/4")
