"""What `predict` writes beside its figures: organs and evidence as NIfTI on the scan's own grid, and as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.case_slices import slices_through_organs
from anatobench.prediction.one_scan import ScanInput, ScanPrediction
from anatobench.report.slices import ORGAN_COLOURS, colour_slice
from anatobench.system.atomic_files import write_atomically
from anatobench.tasks import Task
from anatobench.volumes.nifti import write_nifti
from anatobench.volumes.orientation import is_sheared, to_axes_of
from anatobench.volumes.resample import resample_mask, upright_grid

SHOWN_SLICES = 9
STRONG = 0.5
"""Slices are shown where an attribution reaches this share of its largest value."""
HEAT_OPACITY = 0.6
COLOUR_MAP = "inferno"
NOTE = "Not calibrated and not for clinical use."


def write_organs(folder: Path, scan: ScanInput, prediction: ScanPrediction, task: Task) -> dict[str, str]:
    """`organs.nii.gz`, labels with their names on the scan's own grid, and `organs.png`, slices with the organs laid
    over them; the names of both files."""
    organs = prediction.organs
    assert organs is not None, "asked for when it was predicted"
    labels, picture = folder / "organs.nii.gz", folder / "organs.png"
    _write_on_own_grid(labels, scan, organs, {index: name for index, name in enumerate(task.organs, start=1)})
    slices = slices_through_organs(organs, np.linspace(0.05, 0.95, SHOWN_SLICES).tolist())
    figure = _sheet(scan, task, slices, [colour_slice(scan.volume.voxels[z], organs[z], task) for z in slices])
    figure.suptitle(f"Organs as the auxiliary head predicts them: {scan.scan.name}\n{NOTE}", fontsize=10)
    handles = [
        Patch(color=colour, label=organ.replace("_", " "))
        for organ, colour in zip(task.organs, ORGAN_COLOURS, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    _save(figure, picture)
    return {"labels": str(labels), "picture": str(picture)}


def write_attribution(
    folder: Path, scan: ScanInput, prediction: ScanPrediction, task: Task, finding: str
) -> dict[str, str]:
    """`attribution_<finding>.nii.gz`, the map as float32 on the scan's own grid, and a picture of slices with it laid
    over them; the names of both files."""
    evidence = prediction.attributions[finding]
    stem = "attribution_" + "".join(letter if letter.isalnum() else "_" for letter in finding)
    values, picture = folder / f"{stem}.nii.gz", folder / f"{stem}.png"
    _write_on_own_grid(values, scan, evidence, None)
    peak = float(evidence.max())
    slices = _slices_with_evidence(evidence, peak)
    figure = _sheet(scan, task, slices, [_heated(scan.volume.voxels[z], evidence[z], peak, task) for z in slices])
    found = prediction.figures["findings"][finding]
    figure.suptitle(
        f"Grad-CAM of {finding.replace('_', ' ')}: {scan.scan.name}\nprobability {found['probability']:.3f}, threshold "
        f"{found['threshold']:.3f}, {found['call']}. {NOTE}",
        fontsize=10,
    )
    scale = plt.cm.ScalarMappable(plt.Normalize(0, peak or 1.0), COLOUR_MAP)
    bar = figure.colorbar(scale, ax=figure.axes, shrink=0.5)
    bar.set_label("evidence for the finding, log-odds per map cell, no calibrated unit", fontsize=8)
    _save(figure, picture)
    return {"values": str(values), "picture": str(picture)}


def _write_on_own_grid(path: Path, scan: ScanInput, array: np.ndarray, names: dict[int, str] | None) -> None:
    """On the scan's own grid; if a tilted gantry has sheared that, on the upright one that covers it, because readers
    of NIfTI do not agree on sheared grids."""
    affine = scan.volume.affine
    if is_sheared(affine):
        grid = upright_grid(scan.volume.grid)
        array, affine = resample_mask(array, affine, grid), grid.affine
    elif scan.own_affine is not None:
        array, affine = to_axes_of(array, affine, scan.own_affine)
    try:
        write_nifti(path, array, affine, names)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> AnatoBenchError:
    return AnatoBenchError(f"{path}: cannot be written ({error.strerror}): make room, or choose another folder")


def _sheet(scan: ScanInput, task: Task, slices: Sequence[int], pictures: Sequence[np.ndarray]) -> Figure:
    """Return three by three axial slices, the patient's right on the left."""
    depth = len(scan.volume.voxels)
    _, rows, columns = scan.volume.grid.spacing
    figure, grid = plt.subplots(3, 3, figsize=(8.5, 9.5), layout="constrained")
    for axes, z, picture in zip(grid.flat, slices, pictures, strict=True):
        axes.imshow(picture, aspect=rows / columns, interpolation="nearest")
        height = float((scan.volume.affine @ [z, 0, 0, 1])[2])
        axes.set_title(f"slice {z + 1} of {depth} from the top, z = {height:.0f} mm", fontsize=7)
        axes.set_axis_off()
    return figure


def _slices_with_evidence(evidence: np.ndarray, peak: float) -> list[int]:
    strong = np.flatnonzero(evidence.max(axis=(1, 2)) >= STRONG * peak) if peak > 0 else np.arange(len(evidence))
    return [int(z) for z in np.rint(np.linspace(strong[0], strong[-1], SHOWN_SLICES))]


def _heated(hounsfield: np.ndarray, evidence: np.ndarray, peak: float, task: Task) -> np.ndarray:
    """[H, W] HU and evidence to RGB in [0, 1]: the more evidence, the less of the scan shows through."""
    rgb = colour_slice(hounsfield, None, task)
    share = evidence / peak if peak > 0 else np.zeros_like(evidence)
    opacity = HEAT_OPACITY * np.clip(share, 0, 1)[..., None]
    blended: np.ndarray = (1 - opacity) * rgb + opacity * plt.get_cmap(COLOUR_MAP)(share)[..., :3]
    return blended.clip(0, 1)  # in float32 the two shares may add up to a little more than 1
