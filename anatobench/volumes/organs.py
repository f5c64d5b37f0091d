"""Labels of an organ mask -> the task's organ indices.

Three label maps are in use, and reading one as another is a silent error (label 13 is the right middle lobe in
TotalSegmentator v2 and the left upper lobe in v1). So a map is only believed if the mask's own label names, its largest
label or, failing both, the anatomy that it would give agree with it (label_evidence.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anatobench.errors import CaseError, UsageError
from anatobench.tasks import Task
from anatobench.volumes.label_evidence import check_sides, check_upright, choose_by_anatomy, contradicted_by_anatomy
from anatobench.volumes.label_maps import RATIC_LABELS, TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2
from anatobench.volumes.volume import Mask

LABEL_MAPS: Mapping[str, Mapping[int, str]] = {
    "totalsegmentator_v2": TOTALSEGMENTATOR_V2,
    "totalsegmentator_v1": TOTALSEGMENTATOR_V1,
    "ratic": RATIC_LABELS,
}
AUTO = "auto"

STRUCTURES: Mapping[str, tuple[str, ...]] = {
    "bowel": ("esophagus", "stomach", "duodenum", "small_bowel", "colon", "bowel"),
    "heart": (
        "heart",
        "heart_myocardium",
        "heart_atrium_left",
        "heart_ventricle_left",
        "heart_atrium_right",
        "heart_ventricle_right",
    ),
}
"""Organs of a task that are unions of a mask's structures; every other organ is the structure of its own name."""


def organ_indices(mask: Mask, task: Task, mask_labels: str) -> np.ndarray:
    """Return the mask with the task's organ indices for labels, uint8 [D, H, W]; 0 is background.

    `mask_labels` is `totalsegmentator_v2`, `totalsegmentator_v1`, `ratic` or `auto`. Raises `CaseError` as
    `organ_table` does.
    """
    indices: np.ndarray = organ_table(mask, task, mask_labels)[mask.labels]
    return indices


def organ_table(mask: Mask, task: Task, mask_labels: str) -> np.ndarray:
    """uint8 [largest label + 1]: the task's organ index of each label, to look labels up after resampling.

    Labels that no map has are background in a map that was named, and an error for `auto`. Raises `CaseError`:
    `unknown-mask-labels` for labels outside the map, `wrong-mask-labels` if names or anatomy contradict the map that
    was named, `ambiguous-mask-labels` if `auto` cannot tell, `mirrored-mask` if left organs lie on the right,
    upper ones below or front ones behind, `empty-mask` if none of the task's organs is there.
    """
    present = _present_labels(mask.labels)
    structures = _structures(mask, present, mask_labels)
    check_sides(mask, structures)
    check_upright(mask, structures)
    table = np.zeros(max(present, default=0) + 1, dtype=np.uint8)
    for index, organ in enumerate(task.organs, start=1):
        for label in present:
            if structures.get(label) in STRUCTURES.get(organ, (organ,)):
                table[label] = index
    if not table.any():
        raise CaseError("empty-mask", f"the mask shows none of {', '.join(task.organs)}: it belongs to another task")
    return table


def label_structures(mask: Mask, mask_labels: str) -> Mapping[int, str]:
    """Return the structure that each label stands for, found and checked as `organ_table` does, without judging
    sides."""
    return _structures(mask, _present_labels(mask.labels), mask_labels)


def _present_labels(labels: np.ndarray) -> list[int]:
    """Return the labels that occur, without 0."""
    counts = np.zeros(np.iinfo(labels.dtype).max + 1, dtype=np.int64)
    for plane in labels:  # by planes: bincount turns its input into 64-bit integers
        counts += np.bincount(plane.reshape(-1), minlength=len(counts))
    return (np.flatnonzero(counts[1:]) + 1).tolist()


def _structures(mask: Mask, present: list[int], mask_labels: str) -> Mapping[int, str]:
    """Label to structure name, from the mask's own names or from the map that was given or found."""
    if mask_labels != AUTO and mask_labels not in LABEL_MAPS:
        raise UsageError(f"mask labels {mask_labels!r}: choose one of {', '.join((*LABEL_MAPS, AUTO))}")
    possible = {name: labels for name, labels in LABEL_MAPS.items() if all(label in labels for label in present)}
    given = _given_map(mask, present, mask_labels)
    if given is None:
        if not possible:
            raise CaseError(
                "unknown-mask-labels",
                f"the mask has label {max(present)}, which no known label map has: name its map if you know it",
            )
        return possible[choose_by_anatomy(mask, possible)]
    name, labels = given
    if possible and name in LABEL_MAPS and name not in possible:
        raise CaseError(
            "unknown-mask-labels",
            f"the mask has labels that {name} does not have, and {' and '.join(possible)} has all of them",
        )
    # A derived mask may have labels of its own beside a known map's: then anatomy judges between all maps.
    better = contradicted_by_anatomy(mask, {name: labels} | (possible or dict(LABEL_MAPS)), name)
    if better is not None:
        raise CaseError("wrong-mask-labels", f"the mask's organs lie where {better} has them, not where {name} has")
    return labels


def _given_map(mask: Mask, present: list[int], mask_labels: str) -> tuple[str, Mapping[int, str]] | None:
    """Return the label map that the mask's names or the caller state, with what it is called; None if neither does."""
    names = {label: mask.names[label] for label in present if mask.names and label in mask.names}
    known = {name for labels in LABEL_MAPS.values() for name in labels.values()}
    names = {label: name for label, name in names.items() if name in known}
    if mask_labels == AUTO:
        return ("the mask's own table of names", names) if names else None
    labels = LABEL_MAPS[mask_labels]
    for label in present:
        if label in labels and names.get(label, labels[label]) != labels[label]:
            raise CaseError(
                "wrong-mask-labels",
                f"its own table calls label {label} {names[label]}, and {mask_labels} calls it {labels[label]}",
            )
    return mask_labels, labels
