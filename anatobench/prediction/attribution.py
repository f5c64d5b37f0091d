"""Where in a scan the evidence for a finding lies: Grad-CAM of its log-odds, laid onto the scan's own grid."""

from __future__ import annotations

import numpy as np

from anatobench.tasks import Task
from anatobench.volumes.volume import Grid


def log_odds_slope(task: Task, logits: np.ndarray, finding: str) -> np.ndarray:
    """Return the derivative of log(p / (1 - p)) by each logit, float64 [N, logits], for the probability p of one of
    `task.class_names`.

    The log-odds of a sigmoid is its logit; that of one grade of several is its logit minus the log-sum-exp of the
    others'; `any_injury` is 1 - prod(p_healthy).
    """
    z = np.asarray(logits, dtype=np.float64)
    slope = np.zeros_like(z)
    if finding == "any_injury" and task.any_injury_sample_weights:
        # With S = sum of log p_healthy, the log-odds is log(1 - e^S) - S, and its derivative by S is -1 / (1 - e^S).
        log_healthy = np.zeros(len(z))
        for columns in task.logit_slices:
            group = _with_reference(z[:, columns])
            healthy = group[:, 0] - np.logaddexp.reduce(group, axis=1)
            log_healthy += healthy
            pulled = -_softmax(group)
            pulled[:, 0] += 1.0
            slope[:, columns] = pulled[:, group.shape[1] - (columns.stop - columns.start) :]
        return slope * (1.0 / np.expm1(log_healthy))[:, None]
    columns, chosen = _grades_of(task, finding)
    group = _with_reference(z[:, columns])
    pulled = np.zeros_like(group)
    for grades, sign in ((chosen, 1.0), (~chosen, -1.0)):
        pulled[:, grades] = sign * _softmax(group[:, grades])
    slope[:, columns] = pulled[:, group.shape[1] - (columns.stop - columns.start) :]
    return slope


def attribution_on_grid(attribution: np.ndarray, crop: Grid, scan: Grid) -> np.ndarray:
    """Return a map [d, h, w] over a crop, on the scan's grid: float32 of `scan.size`, linear between the centres of the
    map's cells, 0 outside the crop.

    The cells share out the crop evenly, which is how the segmentation head lays the same map over it. Both grids must
    have the same axes.
    """
    mapping = np.linalg.solve(crop.affine, scan.affine)
    along_depth, along_rows, along_columns = (
        _linear_weights(
            mapping[axis, axis] * np.arange(scan.size[axis]) + mapping[axis, 3],
            crop.size[axis],
            attribution.shape[axis],
        )
        for axis in range(3)
    )
    result = np.tensordot(along_depth, attribution.astype(np.float32), axes=1)  # [D, h, w]
    on_grid: np.ndarray = np.matmul(np.matmul(along_rows, result), along_columns.T)
    return on_grid


def _linear_weights(positions: np.ndarray, voxels: int, cells: int) -> np.ndarray:
    """float32 [positions, cells]: what each cell weighs at positions counted in the crop's voxels."""
    inside = (positions >= -0.5) & (positions <= voxels - 0.5)
    place = np.clip((positions + 0.5) * cells / voxels - 0.5, 0, cells - 1)
    distance = np.abs(place[:, None] - np.arange(cells))
    return (np.maximum(0.0, 1.0 - distance) * inside[:, None]).astype(np.float32)


def _with_reference(z: np.ndarray) -> np.ndarray:
    """Logits of every grade: a sigmoid is a softmax against a logit of 0."""
    return np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z


def _softmax(z: np.ndarray) -> np.ndarray:
    exponentials: np.ndarray = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _grades_of(task: Task, finding: str) -> tuple[slice, np.ndarray]:
    """Return where a class's group has its logits, and which of its grades make up the class: bool [grades]."""
    for group, columns in zip(task.groups, task.logit_slices, strict=True):
        if not task.report_all_grades and finding == group.name:
            return columns, np.arange(len(group.grades)) > 0
        for position, grade in enumerate(group.grades):
            if task.report_all_grades and finding == f"{group.name}_{grade}":
                return columns, np.arange(len(group.grades)) == position
    raise ValueError(f"{finding}: task {task.name} has no such class")
