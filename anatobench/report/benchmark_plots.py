"""Plots of benchmark records, each an <img> with an alt text that says the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from anatobench.report.benchmark_records import Record, arm_label, device_name
from anatobench.report.plots import COLOURS, DASHES, image, legend_below, panel

NEUTRAL = "#5b6670"
OURS = "#14713d"
WIDTH = 4.0
"""Inches: about a phone's width, so that letters stay readable there."""


class Bar(NamedTuple):
    """A figure with its 95 % interval, if there is one."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    colour: str = NEUTRAL


def interval_of(found: Any) -> tuple[float, float] | None:
    """Return two numbers, or None for anything else."""
    if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(end, int | float) for end in found):
        return float(found[0]), float(found[1])
    return None


def bars(entries: Sequence[Bar], what: str, unit: str, reference: tuple[float, str] | None = None) -> str:
    """Horizontal bars from zero, the label above each, the figure at its end; `reference` is a vertical line."""
    if not entries:
        return ""
    with panel(x_label=f"{what} ({unit})", inches=(WIDTH, 0.55 * len(entries) + 0.9)) as (figure, axes):
        longest = max([bar.interval[1] if bar.interval else bar.value for bar in entries])
        longest = max(longest, reference[0] if reference else 0.0) or 1.0
        for place, bar in enumerate(entries):
            axes.barh(place, bar.value, height=0.42, color=bar.colour, alpha=0.85)
            if bar.interval:
                axes.plot(bar.interval, [place, place], color="#1c2126", linewidth=1.3)
            end = max(bar.value, bar.interval[1] if bar.interval else 0.0)
            axes.text(end + 0.015 * longest, place, number(bar.value), va="center")
            axes.text(0, place - 0.27, bar.label, va="bottom").set_in_layout(False)
        if reference:
            axes.axvline(reference[0], color="#b3261e", linewidth=1.2, linestyle=DASHES, label=reference[1])
            legend_below(figure, axes)
        axes.set(xlim=(0, 1.17 * longest), ylim=(len(entries) - 0.5, -0.75), yticks=[])
        axes.spines["left"].set_visible(False)
    said = "; ".join(f"{bar.label}: {number(bar.value)}" for bar in entries)
    line = f"; line at {number(reference[0])}: {reference[1]}" if reference else ""
    return image(figure, f"{what} in {unit}. {said}{line}")


def ratios(entries: Sequence[Bar], what: str) -> str:
    """Points with intervals on a logarithmic axis, with a line at 1."""
    if not entries:
        return ""
    with panel(x_label=what, inches=(WIDTH, 0.5 * len(entries) + 0.9)) as (figure, axes):
        axes.axvline(1, color="#1c2126", linewidth=0.8)
        for place, (label, ratio, interval, _) in enumerate(entries):
            axes.plot(interval or (ratio, ratio), [place, place], color=NEUTRAL, linewidth=1.6)
            axes.plot(ratio, place, "o", color=COLOURS["jax"], markersize=5)
            text = axes.annotate(f"{label}: {number(ratio)}", (0.01, place - 0.24), xycoords=axes.get_yaxis_transform(),
                                 bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
            text.set_in_layout(False)  # the axes would shrink to make room for a long one
        ends = [end for _, ratio, interval, _ in entries for end in (interval or (ratio, ratio))]
        axes.set(xscale="log", xlim=(min(0.8, 0.85 * min(ends)), max(1.25, 1.15 * max(ends))),
                 ylim=(len(entries) - 0.5, -0.8), yticks=[])  # fmt: skip
        axes.spines["left"].set_visible(False)
        _plain_ticks(axes)
    said = "; ".join(
        f"{label}: {number(ratio)}" + (f" (95 % interval {number(ends[0])} to {number(ends[1])})" if ends else "")
        for label, ratio, ends, _ in entries
    )
    return image(figure, f"{what}. {said}")


def _plain_ticks(axes: Axes) -> None:
    """1, 2, 5, 10 in place of powers of ten, and finer steps on a short axis."""
    low, high = axes.get_xlim()
    mantissas = (1, 2, 5) if high > 4 * low else (1, 1.2, 1.5, 2, 3, 5, 8)
    inside = [step for e in range(-4, 5) for m in mantissas if low <= (step := m * 10.0**e) <= high]
    shown = inside[:: 1 + len(inside) // 8]
    axes.set_xticks(shown, [f"{step:g}" for step in shown])
    axes.set_xticks([], minor=True)


def number(value: float) -> str:
    """Return three significant digits, without an exponent where a person would not write one."""
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1000 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}"


def colour_of(arm: Record) -> str:
    """Return the framework's; grey for a peer."""
    return NEUTRAL if arm.get("peer") else COLOURS.get(str(arm.get("framework")), NEUTRAL)


def scaling_plot(record: Record) -> str:
    """Efficiency measured over processes, and predicted with and without overlap."""
    measured: Sequence[Mapping[str, Any]] = record["results"]
    predicted: Sequence[Mapping[str, Any]] = (record.get("prediction") or {}).get("predictions", [])
    said = []
    with panel("", "processes, one device each", "efficiency (%)", (WIDTH, 3.4)) as (figure, axes):
        for mode, marker, style in (("weak", "o", "-"), ("strong", "s", DASHES)):
            points = [(row["processes"], 100 * row["efficiency"]) for row in measured if row["mode"] == mode]
            if points:
                label = f"{mode}, measured"
                axes.plot(*zip(*points, strict=True), marker=marker, linestyle=style, color=OURS, label=label)
                said.append(f"{label}: " + ", ".join(f"{n} processes {value:.0f} %" for n, value in points))
        for name, style in (("no_overlap", (0, (1, 1))), ("full_overlap", "-")):
            points = [(row["devices"], 100 * row[name]["efficiency"]) for row in predicted]
            if points:
                label = f"predicted, {name.replace('_', ' ')}"
                axes.plot(*zip(*points, strict=True), marker="x", linestyle=style, color=COLOURS["jax"], label=label)
                said.append(f"{label}: " + ", ".join(f"{n} GPUs {value:.1f} %" for n, value in points))
        axes.set_xscale("log", base=2)
        ticks = sorted({row["processes"] for row in measured} | {row["devices"] for row in predicted})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_ylim(bottom=0)
        legend_below(figure, axes)
    return image(figure, f"Scaling of {arm_label(record)} on {device_name(record)}. {'; '.join(said)}")
