"""A trained model on one raw scan, brought onto the model's grid as `anatobench prepare` does it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from anatobench.datasets.case import Case
from anatobench.engine import load_engine
from anatobench.errors import AnatoBenchError
from anatobench.exporting import ExportedModel
from anatobench.predictions import class_probabilities
from anatobench.prepare import prepare_case
from anatobench.recipes import FRAMEWORKS, Recipe
from anatobench.tasks import MISSING_TARGET
from anatobench.volumes.crop import centre_crop_start


def predict_scan(model: ExportedModel, scan: Path, framework: str) -> dict[str, Any]:
    """`probabilities` per class and `logits` of one scan: a NIfTI or NPZ file, or a folder with one DICOM series.

    Only the scan's centre is seen, as in evaluation. `CaseError` if the scan cannot be used.
    """
    task, size = model.spec.task, model.spec.size
    if not scan.exists():
        raise AnatoBenchError(f"{scan}: no such file or folder")
    unknown = tuple(MISSING_TARGET for _ in task.groups)
    prepared = prepare_case(Case(scan.name, scan.name, scan, "test", unknown), task, size)
    geometry = task.geometry(size)
    start = centre_crop_start(geometry.padded_size, geometry.crop_size)
    crop = prepared.volume[tuple(slice(s, s + n) for s, n in zip(start, geometry.crop_size, strict=True))]

    engine = load_engine(framework, model.spec, Recipe(segmentation_weight=0.0))
    engine.load_weights(model.weights)
    logits = engine.predict(np.ascontiguousarray(crop[None]))
    if not np.isfinite(logits).all():
        raise AnatoBenchError(f"{scan}: the model's output is not finite: the weights are damaged")
    probabilities = class_probabilities(task, logits)[0]
    return {
        "probabilities": {name: float(value) for name, value in zip(task.class_names, probabilities, strict=True)},
        "logits": [float(value) for value in logits[0]],
        "calibrated": False,
        "task": task.name,
        "model": model.spec.model,
        "framework": framework,
    }


def installed_framework() -> str:
    """The first framework that is installed; `AnatoBenchError` if none is."""
    for framework in FRAMEWORKS:
        if importlib.util.find_spec(framework) is not None:
            return framework
    raise AnatoBenchError("neither PyTorch nor JAX is installed: pip install 'anatobench[torch]'")
