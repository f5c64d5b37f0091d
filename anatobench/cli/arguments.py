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


def spacing(text: str) -> tuple[float, float, float]:
    """`D,H,W` in millimetres, for argparse."""
    try:
        depth, height, width = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write three millimetres D,H,W, for example 3,1.5,1.5") from None
    return depth, height, width


def crop(text: str) -> tuple[int, int, int]:
    """`D,H,W` in voxels, for argparse."""
    try:
        depth, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write three voxels D,H,W, for example 48,96,96") from None
    return depth, height, width


def window(text: str) -> tuple[float, float]:
    """`LOW,HIGH` in HU, for argparse."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write two HU LOW,HIGH, for example =-150,250") from None
    return low, high
