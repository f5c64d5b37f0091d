"""What a scan as a whole gives away: findings that one number of all its voxels tells, without looking anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anatobench.evaluation.metrics import auc_values
from anatobench.evaluation.predictions import ClassPredictions, class_labels
from anatobench.store.reader import Store
from anatobench.system.progress import progress_bar

GIVEN_AWAY = 0.7
"""AUC of one statistic on the training cases from which a class counts as given away."""
TISSUES: Mapping[str, tuple[float, float]] = {
    "air": (-1001, -900),
    "lung": (-900, -500),
    "fat": (-150, -30),
    "water": (-30, 30),
    "soft tissue": (30, 100),
    "contrast": (100, 300),
    "bone": (300, 1001),
}
"""HU from and to; the shares of a scan's voxels in each are statistics."""


def whole_scan_statistics(volume: np.ndarray) -> dict[str, float]:
    """Return the mean and the deviation of a volume [D, H, W] in HU, and the share of each of `TISSUES`."""
    values = volume.astype(np.float32)
    shares = {f"share of {name}": float(((values >= low) & (values < high)).mean())
              for name, (low, high) in TISSUES.items()}  # fmt: skip
    return {"mean": float(values.mean(dtype=np.float64)), "deviation": float(values.std(dtype=np.float64)), **shares}


def given_away(store: Store, split: str = "train") -> dict[str, dict[str, Any]]:
    """Return of every class of the task the statistic that tells it best, with its AUC on that split, 0.5 to 1; a class
    without both labels there is left out. Reads every volume of the split."""
    indices, rows = store.split(split), list[dict[str, float]]()
    with progress_bar(len(indices), "whole scans", "case") as bar:
        for index in indices:
            volume, _ = store.read_crop(index, (0, 0, 0), store.geometry.padded_size)
            rows.append(whole_scan_statistics(volume))
            bar.update()
    names = tuple(rows[0]) if rows else ()
    labels = class_labels(store.task, np.array([store.cases[index].targets for index in indices], np.int8))
    patients = tuple(store.cases[index].patient_id for index in indices)
    found: dict[str, dict[str, Any]] = {}
    for statistic in names:
        scores = np.array([[row[statistic]] for row in rows]).repeat(labels.shape[1], axis=1)
        auc = auc_values(ClassPredictions(store.task.class_names, scores, labels, patients))
        for name, value in zip(store.task.class_names, np.maximum(auc, 1 - auc), strict=True):
            if np.isfinite(value) and value > found.get(name, {"auc": 0.0})["auc"]:
                found[name] = {"statistic": statistic, "auc": float(value)}
    return {name: found[name] for name in store.task.class_names if name in found}
