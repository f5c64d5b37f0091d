"""How fast processes add up arrays, and what that says of the links between them.

A sum of n processes by a ring sends 2 (n - 1) / n times its bytes over every link, whatever n is: the bytes of a link
over the time is its bandwidth, which nccl-tests calls the bus bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anatobench.bench.communication_model import Links

FLOAT_BYTES = 4
SIZES = (FLOAT_BYTES, 1 << 20, 1 << 24)
"""Bytes of the arrays that are added up, beside the gradients' own."""
REPEATS = 8


def sizes(gradient_bytes: int) -> list[int]:
    """Return what is measured for a model, in bytes."""
    return sorted({*SIZES, gradient_bytes})


def bus_bandwidth(size: int, seconds: float, processes: int) -> float:
    """Bytes per second of every link, in one direction."""
    return 2 * (processes - 1) / processes * size / seconds


def sums_of_point(point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each size that was added up, as records hold it."""
    rows = []
    for measured in point["all_reduce"]:
        seconds = float(np.median(measured["seconds"]))
        rows.append({
            "processes": point["processes"],
            "nodes": point["nodes"],
            "bytes": measured["bytes"],
            "median_s": seconds,
            "bus_bandwidth": bus_bandwidth(measured["bytes"], seconds, point["processes"]),
        })  # fmt: skip
    return rows


def measured_links(points: Sequence[Mapping[str, Any]], otherwise: Links) -> tuple[Links, list[str]]:
    """Links as the points' sums say they are, and the names of the fields that were measured.

    Within a node by the most processes of one node; between nodes by the most nodes. A sum of a single number goes up
    and down a tree of 2 log2(n) messages, and what a larger one takes beyond that is bandwidth.
    """
    found: dict[str, Any] = {}
    together = [point for point in points if point["processes"] > 1 and point["all_reduce"]]
    within = [point for point in together if point["nodes"] == 1]
    between = [point for point in together if point["nodes"] > 1]
    for name, candidates in (("node", within), ("network", between)):
        if not candidates:
            continue
        point = max(candidates, key=lambda one: (one["nodes"], one["processes"]))
        rows = sorted(sums_of_point(point), key=lambda row: row["bytes"])
        smallest, largest, count = rows[0], rows[-1], point["processes"]
        found[f"{name}_latency"] = smallest["median_s"] / (2 * math.log2(count))
        beyond = largest["median_s"] - smallest["median_s"]
        if beyond > 0:
            found[f"{name}_bandwidth"] = bus_bandwidth(largest["bytes"] - smallest["bytes"], beyond, count)
    if between:
        per_node = max(point["processes"] // point["nodes"] for point in between)
        return replace(otherwise, devices_per_node=per_node, **found), ["devices_per_node", *found]
    return replace(otherwise, **found), list(found)
