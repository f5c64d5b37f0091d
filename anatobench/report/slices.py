"""CT slices with the organs as the segmenter drew them and as the auxiliary head sees them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from anatobench.report.plots import STYLE, image
from anatobench.report.run_results import Examples, RunResults
from anatobench.tasks import IGNORED_ORGAN, Task

ORGAN_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00")
"""Okabe and Ito's palette, told apart by most colour-blind readers."""
OVERLAY_OPACITY = 0.45


def colour_slice(hounsfield: np.ndarray, organs: np.ndarray | None, task: Task) -> np.ndarray:
    """[H, W] HU to RGB floats in [0, 1] under the task's window, organs [H, W] laid over it."""
    low, high = task.window
    grey = np.clip((hounsfield.astype(np.float64) - low) / (high - low), 0, 1)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    if organs is None:
        return rgb
    for index, colour in zip(range(1, len(task.organs) + 1), ORGAN_COLOURS, strict=False):
        here = organs == index
        tint = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        rgb[here] = (1 - OVERLAY_OPACITY) * rgb[here] + OVERLAY_OPACITY * tint
    return rgb


def example_slices(runs: Sequence[RunResults], cases: int = 2) -> str:
    """Rows of slices: scan, prepared mask, and each run's predicted organs; empty if no run kept examples."""
    with_examples = [run for run in runs if run.examples]
    if not with_examples:
        return ""
    first = with_examples[0]
    task = first.config.task
    rows: list[tuple[Examples, int]] = [
        (example, position) for example in first.examples[:cases] for position in range(example.volume.shape[0])
    ]
    columns: list[tuple[str, RunResults | None]] = [("scan", None), ("mask given", None)]
    columns += [(run.label.split(",")[0] + ", predicted", run) for run in with_examples if run.config.segmentation]
    spacing = task.geometry(first.config.size).spacing
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            len(rows), len(columns), figsize=(2.5 * len(columns), 2.3 * len(rows)), layout="constrained", squeeze=False
        )
        for axes, (title, _) in zip(grid[0], columns, strict=True):
            axes.set_title(title, fontsize=9)
        for row_axes, (example, position) in zip(grid, rows, strict=True):
            for axes, (title, run) in zip(row_axes, columns, strict=True):
                organs = _organs(example, position, title, run)
                axes.imshow(
                    colour_slice(example.volume[position], organs, task),
                    aspect=spacing[1] / spacing[2],
                    interpolation="nearest",
                )
                axes.set(xticks=[], yticks=[])
                axes.set_frame_on(False)
            row_axes[0].set_ylabel(example.case_id, fontsize=7)
        patches = [
            Patch(color=colour, label=organ.replace("_", " "))
            for organ, colour in zip(task.organs, ORGAN_COLOURS, strict=False)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=8)
    names = ", ".join(sorted({example.case_id for example, _ in rows}))
    return image(figure, f"Axial CT slices of {names}: scan, prepared organ mask and predicted organs", kind="png")


def _organs(example: Examples, position: int, title: str, run: RunResults | None) -> np.ndarray | None:
    if title == "scan":
        return None
    if run is None:
        organs = example.organs[position]
        return np.where(organs == IGNORED_ORGAN, 0, organs)
    for candidate in run.examples:
        if candidate.case_id == example.case_id and candidate.predicted_organs is not None:
            return candidate.predicted_organs[position]
    return None
