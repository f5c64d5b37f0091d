"""What all plots share: style, colours, and how a figure becomes an <img> with its bytes inside and an alt text.

Hue tells the framework, dashes the missing segmentation branch, so that a plot survives grey printing in pairs; several
runs of one kind are shades of one hue. Plots have no background of their own: on a dark screen the page inverts them.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anatobench.report.html_parts import legend
from anatobench.report.run_results import RunResults

COLOURS = {"torch": "#c8491d", "jax": "#1f5fa8"}
SHADES = {
    "torch": (COLOURS["torch"], "#e8913f", "#8a2b0c", "#b07a5a"),
    "jax": (COLOURS["jax"], "#45a0c8", "#173a68", "#6f7fb5"),
}
"""For several runs of one framework and kind."""
DASHES = (0, (4, 2))
LINE_WIDTHS = {"torch": 2.4, "jax": 1.1}
"""Frameworks that agree draw the same line: the first one's shows on both sides of the second's."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "anatobench",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names of runs, findings and organs may hold dollars
}
PANEL_INCHES = (3.7, 2.7)
"""One plot of a row, about as wide as a telephone, so that its text is never shrunk much."""
PANEL_REM = 19.0


def image(figure: Figure, alt: str, kind: str = "svg") -> str:
    """Return the figure as an <img> with its bytes inside."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}, "transparent": True} if kind == "svg" else {}
    with plt.rc_context({name: STYLE[name] for name in ("svg.hashsalt", "text.parse_math")}):  # the same bytes again
        figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=110, **options)
    plt.close(figure)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return embedded(buffer.getvalue(), mime, alt, "plot" if kind == "svg" else "picture")


def embedded(content: bytes, mime: str, alt: str, css_class: str) -> str:
    """Return a picture's bytes as an <img>."""
    data = base64.b64encode(content).decode()
    return f'<img class="{css_class}" src="data:{mime};base64,{data}" alt="{html.escape(alt, quote=True)}">'


def line_styles(runs: Sequence[RunResults]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each run by its label."""
    styles, seen = {}, Counter[tuple[str, bool]]()
    for run in runs:
        kind = (run.config.framework, run.config.segmentation)
        shades = SHADES[run.config.framework]
        styles[run.label] = {
            "color": shades[seen[kind] % len(shades)],
            "linestyle": "-" if run.config.segmentation else DASHES,
            "linewidth": LINE_WIDTHS[run.config.framework],
        }
        seen[kind] += 1
    return styles


def run_legend(runs: Sequence[RunResults]) -> str:
    """Return the runs' colours and dashes as HTML, above a row of plots."""
    styles = line_styles(runs)
    return legend(
        [(run.label, styles[run.label]["color"], "line" if run.config.segmentation else "line dashed") for run in runs]
    )


def debiased_average(values: Sequence[float], weight: float) -> np.ndarray:
    """Exponential moving average over steps (the paper's "time weighted average"), float64 [steps], started without
    bias: sum of weight^(t-s) x_s over the sum of the weights."""
    averages, average, scale = [], 0.0, 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        scale = weight * scale + (1 - weight)
        averages.append(average / scale)
    return np.array(averages)


@contextmanager
def panel(
    title: str = "", x_label: str = "", y_label: str = "", inches: tuple[float, float] = PANEL_INCHES
) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty plot, to draw in while the style is that of all plots."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=inches, layout="constrained")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        yield figure, axes


@contextmanager
def unit_square(
    title: str, x_label: str, y_label: str, inches: tuple[float, float], diagonal: str = "-"
) -> Iterator[tuple[Figure, Axes]]:
    """Yield a panel of two shares with its diagonal in that line style."""
    with panel(title, x_label, y_label, inches) as (figure, axes):
        axes.plot([0, 1], [0, 1], color="#888", linewidth=0.7, linestyle=diagonal)
        axes.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        yield figure, axes


@contextmanager
def panels_in_a_row(count: int, inches: tuple[float, float]) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Yield `count` empty plots of that size with the same axes, as one picture, as `panel` does."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, count, figsize=(inches[0] * count + 0.6, inches[1]), layout="constrained",
                                    sharex=True, sharey=True, squeeze=False)  # fmt: skip
        yield figure, list(axes.flat)


def legend_below(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """Name the lines of one plot under all of the figure's, each name once."""
    lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, frameon=False)


def mean_and_interval(axes: Axes, row: Mapping[str, Any], place: float, colour: str, markersize: float) -> None:
    """Draw a record's `mean` as a dot and `low` to `high`, if there is one, as a line at that height; in hundredths."""
    if row["low"] is not None:
        axes.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color=colour, linewidth=1.4)
    axes.plot(100 * row["mean"], place, "o", color=colour, markersize=markersize)


def wrapped(text: str, width: int) -> str:
    """Return the text in lines of at most `width` letters, for titles and ticks; a longer word has its own line."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False))
