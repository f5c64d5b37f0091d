"""A trained model on raw scans, brought onto the model's grid as `anatobench prepare` does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.engine import load_engine
from anatobench.errors import AnatoBenchError, CaseError, UsageError, install_command
from anatobench.evaluation.predictions import class_probabilities, healthy_columns
from anatobench.evaluation.thresholds import Thresholds
from anatobench.objectives.heads import SEGMENTATION
from anatobench.prediction.attribution import attribution_on_grid, log_odds_slope
from anatobench.prediction.exported_model import ExportedModel
from anatobench.recipes import FRAMEWORKS, Recipe
from anatobench.store.crops import centre_crop_start
from anatobench.store.prepare import on_task_grid
from anatobench.tasks import Task
from anatobench.volumes.read import own_affine, read_volume
from anatobench.volumes.resample import cropped_grid, resample_mask
from anatobench.volumes.volume import Grid, Volume

CROP_POLICY = "one crop at the scan's centre, as in evaluation; what lies outside it is not seen"


@dataclass(frozen=True)
class ScanInput:
    """A scan as it was read and what the model sees of it."""

    scan: Path
    volume: Volume
    own_affine: np.ndarray | None
    """How the voxels lie in the scan's own file: float64 [4, 4], (k, j, i) to RAS+ millimetres; None for a format
    without axes."""
    crop: np.ndarray
    """int16 [D, H, W] HU on the task's grid."""
    crop_grid: Grid


@dataclass(frozen=True)
class ScanPrediction:
    """What the model says of one scan; arrays lie on the scan's grid as it was read (superior to inferior, ...)."""

    figures: dict[str, Any]
    """`probabilities`, `logits`, `findings` and where they come from, in plain JSON types."""
    organs: np.ndarray | None
    """uint8 [D, H, W], the auxiliary head's organ indices, 0 outside the crop; None if not asked for."""
    attributions: dict[str, np.ndarray]
    """float32 [D, H, W] by finding; see attribution.py."""


def read_scan(scan: Path, task: Task, size: str, rescale: str = "auto") -> ScanInput:
    """Return a NIfTI or NPZ file, or a folder with one DICOM series. `CaseError` if the scan cannot be used.

    `rescale` is `hu` for values that are HU whatever they look like (`read_volume`).
    """
    if not scan.exists():
        raise CaseError("missing", f"{scan}: no such file or folder")
    geometry = task.geometry(size)
    volume = read_volume(scan, rescale=rescale)
    voxels, grid = on_task_grid(volume, geometry)
    start = centre_crop_start(geometry.padded_size, geometry.crop_size)
    crop = voxels[tuple(slice(s, s + n) for s, n in zip(start, geometry.crop_size, strict=True))]
    crop_grid = cropped_grid(grid, start, geometry.crop_size)
    return ScanInput(scan, volume, own_affine(scan), np.ascontiguousarray(crop), crop_grid)


class ScanPredictor:
    """A model in memory, for one scan after another."""

    def __init__(self, model: ExportedModel, framework: str, thresholds: Thresholds) -> None:
        self.spec, self.framework, self.thresholds = model.spec, framework, thresholds
        weight = 1.0 if SEGMENTATION in model.spec.heads else 0.0
        recipe = Recipe(segmentation_weight=weight, compile="false")  # a few scans are sooner done than it is compiled
        self._engine = load_engine(framework, model.spec, recipe)
        self._engine.load_weights(model.weights)

    def predict(self, scan: ScanInput, organs: bool = False, attribute: Sequence[str] = ()) -> ScanPrediction:
        """Probabilities and calls; on request the auxiliary head's organs and the evidence for findings."""
        task, grid = self.spec.task, scan.volume.grid
        logits = self._engine.predict(scan.crop[None])
        if not np.isfinite(logits).all():
            raise AnatoBenchError(f"{scan.scan}: the model's output is not finite: the weights are damaged")
        labels = None
        if organs:
            labels = resample_mask(self._engine.segment(scan.crop[None])[0], scan.crop_grid.affine, grid)
        attributions = {}
        for finding in attribute:
            evidence = self._engine.attribution(scan.crop[None], log_odds_slope(task, logits, finding))[0]
            attributions[finding] = attribution_on_grid(evidence, scan.crop_grid, grid)
        return ScanPrediction(self._figures(scan, logits), labels, attributions)

    def _figures(self, scan: ScanInput, logits: np.ndarray) -> dict[str, Any]:
        task, grid = self.spec.task, scan.volume.grid
        values = class_probabilities(task, logits)[0]
        probabilities = {name: float(value) for name, value in zip(task.class_names, values, strict=True)}
        return {
            "probabilities": probabilities,
            "logits": [float(value) for value in logits[0]],
            "findings": self.thresholds.findings(probabilities),
            "threshold_rule": self.thresholds.rule,
            "threshold_source": self.thresholds.source,
            "calibrated": False,
            "notes": list(scan.volume.notes),
            "crop": {
                "policy": CROP_POLICY,
                "scan_mm": _extent(grid),
                # Beyond the scan the crop is padded with air, of which nothing is seen.
                "seen_mm": [min(pair) for pair in zip(_extent(scan.crop_grid), _extent(grid), strict=True)],
            },
            "task": task.name,
            "model": self.spec.model,
            "framework": self.framework,
        }


def asked_findings(task: Task, asked: str | None) -> tuple[str, ...]:
    """Return the classes that `--attribution` names: one, `all` (without healthy grades, which no finding is), or
    none."""
    if asked is None:
        return ()
    if asked == "all":
        return tuple(n for n, healthy in zip(task.class_names, healthy_columns(task), strict=True) if not healthy)
    if asked not in task.class_names:
        raise UsageError(f"--attribution {asked}: choose all, or one of {', '.join(task.class_names)}")
    return (asked,)


def installed_framework() -> str:
    """Return the first framework that is installed; `AnatoBenchError` if none is."""
    for framework in FRAMEWORKS:
        if importlib.util.find_spec(framework) is not None:
            return framework
    raise AnatoBenchError(f"neither PyTorch nor JAX is installed: {install_command('torch')}")


def _extent(grid: Grid) -> list[float]:
    """Millimetres from end to end per axis, whole voxels."""
    return [round(size * spacing, 1) for size, spacing in zip(grid.size, grid.spacing, strict=True)]
