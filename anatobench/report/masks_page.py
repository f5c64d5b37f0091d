"""The page that `anatobench masks --check` writes: how the masks are, and pictures of the worst."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from anatobench import __version__
from anatobench.errors import CaseError
from anatobench.masks.making import SPACING
from anatobench.masks.quality import PLAUSIBLE_ML, SEVERITY, MaskQuality
from anatobench.report.html_parts import html_page, legend, paragraph, table
from anatobench.report.plots import STYLE, image
from anatobench.report.slices import coloured
from anatobench.volumes.organs import STRUCTURES, label_structures
from anatobench.volumes.read import read_mask, read_volume
from anatobench.volumes.resample import resample_mask, resample_volume, resampled_grid

TITLE = "Organ masks"
PICTURES = 12
LISTED = 200
WINDOW = (-160.0, 240.0)
"""HU shown: soft tissue. Lungs are black under their colours."""
COLOURS = {
    "lung_upper_lobe_left": "#e69f00",
    "lung_lower_lobe_left": "#56b4e9",
    "lung_upper_lobe_right": "#009e73",
    "lung_middle_lobe_right": "#f0e442",
    "lung_lower_lobe_right": "#cc79a7",
    "heart": "#d55e00",
    "liver": "#b07a3f",
    "spleen": "#7b5cd6",
    "kidney_left": "#2fb5c4",
    "kidney_right": "#e0457b",
    "bowel": "#8fbf3f",
}
VIEWS = ("axial, upper", "axial, lower", "coronal")
READING = (
    "Plausible volumes are rules of thumb for adults, wide on purpose: outside them is a reason to look, not a fault. "
    "An organ is cut off where it touches an edge of the scan; it is missing where the mask shows a vertebra beside "
    "which it should lie, and outside the scan where it shows none of these. A mask without vertebrae cannot tell. "
    "Left and right are the patient's; pictures show them as radiologists do, the patient's right on the left."
)


def build_masks_page(qualities: Sequence[MaskQuality], organs: Sequence[str], without_mask: int) -> str:
    """Return the whole page; `qualities` come with the worst first."""
    noted = [quality for quality in qualities if quality.severity > 0]
    shown = (noted or list(qualities))[:PICTURES]
    counted = f"{len(qualities)} masks, {len(noted)} of them worth a look; {without_mask} scans have no mask."
    sections = {
        "Organs": _organ_table(qualities, organs) + paragraph(READING),
        "Worth a look" if noted else "Nothing stands out": _case_list(noted),
        "The worst, in pictures" if noted else "Some of them, in pictures": _pictures(shown, organs),
    }
    return html_page(TITLE, sections, f"{counted} AnatoBench {__version__}")


def _organ_table(qualities: Sequence[MaskQuality], organs: Sequence[str]) -> str:
    findings = [one for quality in qualities for one in quality.findings]
    kinds = [kind for kind in SEVERITY if kind != "unusable" and any(one.finding == kind for one in findings)]
    rows = []
    for organ in organs:
        found = [one for one in findings if one.organ == organ]
        whole = [one.millilitres for one in found if one.finding in ("ok", "too small", "too large")]
        low, high = PLAUSIBLE_ML[organ]
        spread = f"{np.median(whole):.0f} ({min(whole):.0f} to {max(whole):.0f})" if whole else "none whole"
        counts = Counter(one.finding for one in found)
        shown = (str(counts[kind]) if counts[kind] else "" for kind in kinds)
        rows.append((organ.replace("_", " "), spread, f"{low:g} to {high:g}", *shown))
    return table(("organ", "ml, whole organs: median (range)", "plausible ml", *kinds), rows)


def _case_list(noted: Sequence[MaskQuality]) -> str:
    if not noted:
        return "<p>Every organ is of a plausible size, on its side, and there wherever the scan reaches.</p>"
    entries = "".join(
        f"<li><strong>{html.escape(quality.scan.case_id)}</strong>: {html.escape('; '.join(quality.remarks))}</li>"
        for quality in noted[:LISTED]
    )
    rest = f"{len(noted) - LISTED} more stand in quality.csv." if len(noted) > LISTED else ""
    return f"<ul>{entries}</ul>{paragraph(rest)}"


def _pictures(shown: Sequence[MaskQuality], organs: Sequence[str]) -> str:
    parts = [legend([(organ.replace("_", " "), COLOURS[organ], "patch") for organ in organs])] if shown else []
    for quality in shown:
        remarks = "; ".join(quality.remarks) or "nothing stands out"
        try:
            picture = _picture(quality, organs)
        except (CaseError, OSError) as error:
            picture = paragraph(f"No picture: {error}")
        parts.append(f"<h3>{html.escape(quality.scan.case_id)}</h3><p>{html.escape(remarks)}</p>{picture}")
    return "".join(parts)


def _picture(quality: MaskQuality, organs: Sequence[str]) -> str:
    """Return three slices with the organs over them, at a third and two thirds of their extent and through their
    middle."""
    voxels, indices = _on_one_grid(quality, organs)
    there = np.argwhere(indices > 0) if indices.any() else np.argwhere(np.ones(indices.shape, dtype=bool))
    first, last = there[:, 0].min(), there[:, 0].max()
    upper, lower = (int(first + (last - first) * share) for share in (1 / 3, 2 / 3))
    middle = int(np.median(there[:, 1]))
    views = [(voxels[upper], indices[upper]), (voxels[lower], indices[lower]), (voxels[:, middle], indices[:, middle])]
    colours = [COLOURS[organ] for organ in organs]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(1, 3, figsize=(10.5, 3.6), layout="constrained")
        for axes, title, (plane, organ_plane) in zip(grid, VIEWS, views, strict=True):
            aspect = SPACING[0] / SPACING[2] if title == "coronal" else SPACING[1] / SPACING[2]
            axes.imshow(coloured(plane, WINDOW, colours, organ_plane), aspect=aspect, interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=title)
            axes.text(0.02, 0.98, "R", color="white", transform=axes.transAxes, va="top", fontweight="bold")
            axes.set_frame_on(False)
    return image(figure, f"Axial and coronal slices of {quality.scan.case_id} with its organ mask", kind="png")


def _on_one_grid(quality: MaskQuality, organs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """HU and organ numbers (1 for the first of `organs`) [D, H, W] on the resampled scan's grid."""
    scan = quality.scan
    assert scan.mask is not None
    volume = read_volume(scan.path, scan.header, scan.rescale)
    grid = resampled_grid(volume.grid, SPACING)
    mask = read_mask(scan.mask)
    structures = label_structures(mask, scan.mask_labels)
    table_of_organs = np.zeros(np.iinfo(mask.labels.dtype).max + 1, dtype=np.uint8)
    for number, organ in enumerate(organs, start=1):
        for label, name in structures.items():
            if name in STRUCTURES.get(organ, (organ,)):
                table_of_organs[label] = number
    return resample_volume(volume, grid), table_of_organs[resample_mask(mask.labels, mask.affine, grid)]
