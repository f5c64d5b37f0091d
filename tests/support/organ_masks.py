"""Organ masks as the product reads them, in one step."""

import numpy as np

from anatobench.tasks import Task
from anatobench.volumes.organs import organ_table, sides_told
from anatobench.volumes.volume import Mask


def organ_indices(mask: Mask, task: Task, mask_labels: str) -> np.ndarray:
    """Return the mask with the task's organ indices for labels, uint8 [D, H, W]; 0 is background.

    `mask_labels` is `totalsegmentator_v2`, `totalsegmentator_v1`, `ratic`, `auto` or a template (mask_templates.py).
    Raises `CaseError` as `organ_table` does.
    """
    indices: np.ndarray = organ_table(mask, task, mask_labels)[mask.labels]
    return sides_told(indices, mask.grid.spacing, task)
