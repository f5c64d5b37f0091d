"""Labels of an organ mask -> the task's organ indices.

Three label maps are in use, and reading one as another is a silent error (label 13 is the right middle lobe in
TotalSegmentator v2 and the left upper lobe in v1). So a map is only believed if the mask's own label names, its largest
label or, failing both, the anatomy that it would give agree with it (label_evidence.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree

from anatobench.errors import CaseError, UsageError
from anatobench.tasks import IGNORED_ORGAN, Spacing, Task
from anatobench.volumes.label_evidence import check_sides, check_upright, choose_by_anatomy, contradicted_by_anatomy
from anatobench.volumes.label_maps import RATIC_LABELS, TOTALSEGMENTATOR_V1, TOTALSEGMENTATOR_V2
from anatobench.volumes.mask_templates import CLIP_DRIVEN, TEMPLATE_NAMES, WITHIN, template_of
from anatobench.volumes.volume import Mask

LABEL_MAPS: Mapping[str, Mapping[int, str]] = {
    "totalsegmentator_v2": TOTALSEGMENTATOR_V2,
    "totalsegmentator_v1": TOTALSEGMENTATOR_V1,
    "ratic": RATIC_LABELS,
}
AUTO = "auto"
EITHER_KIDNEY = 254
"""In a table: what lies within the left kidney or the right one, and the label does not say in which."""

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


def organ_table(mask: Mask, task: Task, mask_labels: str) -> np.ndarray:
    """uint8 [largest label + 1]: the task's organ index of each label, to look labels up after resampling;
    `EITHER_KIDNEY` is for `sides_told`. A structure that lies within an organ counts as it (`WITHIN`).

    Labels that no map has are background in a map that was named, and an error for `auto`. Raises `CaseError`:
    `unknown-mask-labels` for labels outside the map, `template-misfit` for those that a template does not annotate,
    `wrong-mask-labels` if names or anatomy contradict the map that was named, `ambiguous-mask-labels` if `auto` cannot
    tell, `mirrored-mask` if left organs lie on the right, upper ones below or front ones behind, `empty-mask` if none
    of the task's organs is there.
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
    for label in present:
        if table[label] == 0:
            table[label] = _organ_around(structures.get(label, ""), task)
    if not table.any():
        raise CaseError(
            "empty-mask",
            f"the mask shows none of {', '.join(task.organs)}: it belongs to another task, or the scan does not reach "
            "them: leave the mask out",
        )
    return table


def _organ_around(structure: str, task: Task) -> int:
    """Return the organ index of what a structure lies within, 0 if that is no organ of the task."""
    around = WITHIN.get(structure, ())
    found = [
        index for index, organ in enumerate(task.organs, start=1)
        if any(outer in STRUCTURES.get(organ, (organ,)) for outer in around)
    ]  # fmt: skip
    if not found:
        return 0
    return found[0] if len(found) == 1 else EITHER_KIDNEY


def sides_told(organs: np.ndarray, spacing: Spacing, task: Task) -> np.ndarray:
    """Return uint8 [D, H, W] with each voxel of `EITHER_KIDNEY` given to the kidney whose voxels are nearest, in mm; to
    none, and not known, where there is no kidney."""
    either = organs == EITHER_KIDNEY
    if not either.any():
        return organs
    kidneys = [index for index, organ in enumerate(task.organs, start=1) if organ.startswith("kidney_")]
    voxels = np.argwhere(either)
    distances = [_distance(voxels * spacing, np.argwhere(organs == kidney) * spacing) for kidney in kidneys]
    told = organs.copy()
    told[either] = np.where(
        np.isfinite(distances).any(axis=0), np.array(kidneys, np.uint8)[np.argmin(distances, axis=0)], IGNORED_ORGAN
    )
    return told


def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how far each point is from the nearest of the others; infinitely where there are none."""
    if not len(others):
        return np.full(len(points), np.inf)
    distance: np.ndarray = cKDTree(others).query(points)[0]
    return distance


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
    template = template_of(mask_labels)
    if template is not None:
        return _of_template(mask, present, template, mask_labels)
    if mask_labels != AUTO and mask_labels not in LABEL_MAPS:
        choices = (*LABEL_MAPS, AUTO, *TEMPLATE_NAMES)
        raise UsageError(f"mask labels {mask_labels!r}: choose one of {', '.join(choices)}")
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


def _of_template(mask: Mask, present: list[int], template: frozenset[str], name: str) -> Mapping[int, str]:
    """Return the numbering that templates share, if the mask has no other labels than its template's, and its organs
    lie where the numbering has them."""
    others = [label for label in present if CLIP_DRIVEN.get(label) not in template]
    if others:
        raise CaseError(
            "template-misfit",
            f"the mask has label {others[0]} ({CLIP_DRIVEN.get(others[0], 'of no template')}), which {name} does not "
            "annotate: name the template of its source",
        )
    others_maps = {map_name: labels for map_name, labels in LABEL_MAPS.items() if all(one in labels for one in present)}
    better = contradicted_by_anatomy(mask, {name: CLIP_DRIVEN} | others_maps, name)
    if better is not None:
        raise CaseError(
            "wrong-mask-labels", f"the mask's organs lie where {better} has them, not where the numbering of {name} has"
        )
    return CLIP_DRIVEN


def _given_map(mask: Mask, present: list[int], mask_labels: str) -> tuple[str, Mapping[int, str]] | None:
    """Return the label map that the mask's names or the caller state, with what it is called; None if neither does."""
    names = {label: mask.names[label] for label in present if mask.names and label in mask.names}
    known = {name for labels in (*LABEL_MAPS.values(), CLIP_DRIVEN) for name in labels.values()}
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
