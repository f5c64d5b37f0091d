"""CT slices with the organs as the segmenter drew them and as the auxiliary head sees them."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np

from anatobench.report.html_parts import legend, paragraph, pictures
from anatobench.report.plots import embedded
from anatobench.report.run_results import Examples, RunResults
from anatobench.tasks import Task

ORGAN_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00")
"""Okabe and Ito's palette, told apart by most colour-blind readers."""
OVERLAY_OPACITY = 0.45
SHOWN_CASES = 2
SLICE_REM = 9.5
"""Least width of a slice on the page."""
EXPLANATION = (
    "Axial slices under the task's window, as a radiologist sees them: the patient's right is on the left. "
    "Filled: organs as predicted by the auxiliary head; outlines: the given mask."
)


def colour_slice(
    hounsfield: np.ndarray, organs: np.ndarray | None, task: Task, outlined: np.ndarray | None = None
) -> np.ndarray:
    """[H, W] HU to RGB floats [H, W, 3] of 0 to 1 under the task's window, organs [H, W] laid over it, and the borders
    of `outlined` [H, W] in the same colours; what is not annotated has none."""
    return coloured(hounsfield, task.window, ORGAN_COLOURS[: len(task.organs)], organs, outlined)


def coloured(
    hounsfield: np.ndarray, window: tuple[float, float], colours: Sequence[str], organs: np.ndarray | None,
    outlined: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the same, [H, W, 3], under any window of HU; the first of the colours is that of organ 1."""
    low, high = window
    grey = np.clip((hounsfield.astype(np.float64) - low) / (high - low), 0, 1)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    for index, colour in enumerate(colours, start=1):
        tint = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        if organs is not None:
            here = organs == index
            rgb[here] = (1 - OVERLAY_OPACITY) * rgb[here] + OVERLAY_OPACITY * tint
        if outlined is not None:
            rgb[border(outlined == index)] = tint
    return rgb


def border(region: np.ndarray) -> np.ndarray:
    """Pixels of a region, bool [H, W], with a neighbour (of four) outside it; the picture's edge is no outside."""
    padded = np.pad(region, 1, mode="edge")
    inner: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: np.ndarray = region & ~inner
    return outline


def slice_picture(rgb: np.ndarray, alt: str, caption: str) -> str:
    """RGB floats [H, W, 3] as a <figure>; alt text and caption are plain text."""
    buffer = io.BytesIO()
    plt.imsave(buffer, np.ascontiguousarray(rgb), format="png")
    picture = embedded(buffer.getvalue(), "image/png", alt, "slice")
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def example_slices(runs: Sequence[RunResults]) -> str:
    """Slices of the first cases that were kept: the scan, its mask, and every run's organs over the mask's outlines;
    empty if no run kept any."""
    with_examples = [run for run in runs if run.examples]
    if not with_examples:
        return ""
    task = with_examples[0].config.task
    named = zip(task.organs, ORGAN_COLOURS, strict=False)
    page = paragraph(EXPLANATION) + legend([(organ.replace("_", " "), colour, "patch") for organ, colour in named])
    for example in with_examples[0].examples[:SHOWN_CASES]:
        page += f"<h3>{html.escape(example.case_id)}</h3>"
        for position in range(len(example.volume)):
            page += pictures(_row(example, position, with_examples, task), SLICE_REM)
    return page


def case_pictures(example: Examples, task: Task, caption: str) -> Iterator[str]:
    """Yield every slice kept of one case, predicted organs over the mask's outlines."""
    for position, hounsfield in enumerate(example.volume):
        predicted = None if example.predicted_organs is None else example.predicted_organs[position]
        rgb = colour_slice(hounsfield, predicted, task, example.organs[position])
        place = f"slice {position + 1} of {len(example.volume)}"
        yield slice_picture(rgb, f"Axial CT {place} of {example.case_id} with organs: {caption}", place)


def _row(example: Examples, position: int, runs: Sequence[RunResults], task: Task) -> Iterator[str]:
    hounsfield, given = example.volume[position], example.organs[position]
    place = f"axial CT slice {position + 1} of {len(example.volume)} of {example.case_id}"
    yield slice_picture(colour_slice(hounsfield, None, task), f"{place}, the scan alone", "scan")
    yield slice_picture(colour_slice(hounsfield, given, task), f"{place} with the mask's organs", "mask given")
    for run in runs:
        for kept in run.examples:
            if kept.case_id == example.case_id and kept.predicted_organs is not None:
                rgb = colour_slice(hounsfield, kept.predicted_organs[position], task, given)
                alt = f"{place} with the organs that {run.label} predicts over the outlines of the mask's"
                yield slice_picture(rgb, alt, f"predicted: {run.label}")
