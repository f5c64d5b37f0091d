"""A small model of data-parallel training: what a step costs on more devices than were measured.

Every process computes its own part of the batch, then all add up their gradients by a ring all-reduce: each of n
processes sends and receives 2 (n - 1) / n times the gradients' bytes in 2 (n - 1) messages (Patarasuk and Yuan 2009).
Sums of a few numbers, such as BatchNorm's statistics, go up and down a tree: 2 log2(n) messages each.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

BACKWARD_SHARE = 2 / 3
"""Of a step's arithmetic; communication can hide only behind the backward pass."""


@dataclass(frozen=True)
class Links:
    """How devices are joined. Bytes per second and device, in one direction; seconds."""

    devices_per_node: int = 8
    node_bandwidth: float = 450e9
    """NVLink of an H100 or H200: 900 GB/s counting both directions."""
    network_bandwidth: float = 50e9
    """One 400 Gb/s adapter per device."""
    node_latency: float = 3e-6
    network_latency: float = 8e-6


@dataclass(frozen=True)
class StepCost:
    """What was measured on one device."""

    step_s: float
    gradient_bytes: int
    small_sums: int = 0
    """All-reduces of a few numbers that the step must wait for: BatchNorm's statistics forward and backward."""


def communication_seconds(cost: StepCost, links: Links, devices: int) -> tuple[float, float]:
    """Seconds of one step's gradient all-reduce, and of its small sums, on `devices` devices.

    The ring is as fast as its slowest link: the network, once there is more than one node.
    """
    if devices == 1:
        return 0.0, 0.0
    within = devices <= links.devices_per_node
    bandwidth = links.node_bandwidth if within else links.network_bandwidth
    latency = links.node_latency if within else links.network_latency
    ring = 2 * (devices - 1) * latency + 2 * (devices - 1) / devices * cost.gradient_bytes / bandwidth
    return ring, cost.small_sums * 2 * math.ceil(math.log2(devices)) * latency


def predict(cost: StepCost, links: Links, devices: int) -> dict[str, Any]:
    """Seconds per step and weak-scaling efficiency, the batch per device unchanged.

    Without overlap the gradients travel after the backward pass; with full overlap all that fits hides behind it.
    """
    ring, small = communication_seconds(cost, links, devices)
    hidden = min(ring, BACKWARD_SHARE * cost.step_s)
    apart, overlapped = cost.step_s + small + ring, cost.step_s + small + ring - hidden
    return {
        "devices": devices,
        "all_reduce_s": ring,
        "small_sums_s": small,
        "no_overlap": {"step_s": apart, "efficiency": cost.step_s / apart},
        "full_overlap": {"step_s": overlapped, "efficiency": cost.step_s / overlapped},
    }


def assumptions(cost: StepCost, links: Links) -> list[str]:
    """In words, for a person and for the record."""
    return [
        f"a step without communication takes {cost.step_s:.4g} s however many devices there are, and all alike",
        f"gradients of {cost.gradient_bytes / 1e6:.1f} MB in float32 are added up by one ring per step",
        f"{links.devices_per_node} devices per node; a link carries {links.node_bandwidth / 1e9:g} GB/s within a node, "
        f"{links.network_bandwidth / 1e9:g} GB/s between nodes, in each direction",
        f"a message takes {links.node_latency * 1e6:g} us within a node, {links.network_latency * 1e6:g} us between",
        f"{cost.small_sums} small sums per step (BatchNorm's statistics, forward and backward) are waited for",
        "no overlap: gradients travel after the backward pass; full overlap: all that fits into the backward pass "
        "(two thirds of the step) is hidden",
        "loading, stragglers and other jobs on the network are left out",
    ]


def prediction_record(cost: StepCost, links: Links, devices: tuple[int, ...] = (8, 64, 512)) -> dict[str, Any]:
    """Assumptions, inputs and predictions."""
    return {
        "inputs": {**asdict(cost), **asdict(links)},
        "assumptions": assumptions(cost, links),
        "predictions": [predict(cost, links, count) for count in devices],
    }
