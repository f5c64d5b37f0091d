"""What a model may have behind its backbone, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from anatobench.tasks import Task

CLASSIFIER, SEGMENTATION, PARTIAL_MASKS = "classifier", "segmentation", "partial_masks"
UNTRAINED = "untrained"
"""What an exported file's metadata says of a classifier that is as it was drawn; of a trained one it says nothing."""


@dataclass(frozen=True)
class Head:
    """One of the model's outputs."""

    kind: str
    """`classifier`: the backbone's own linear layer on its averaged features. `auxiliary`: a 1x1x1 convolution on the
    feature map, upsampled to the input's size; its weights are `<name>_head.*`."""
    outputs: Callable[[Task], int]
    """Logits, per case or per voxel."""
    shown_as: str
    """What parity calls its logits."""
    overlapping: bool = False
    """Whether a voxel may be of several of its classes (a sigmoid each) or is of one (softmax)."""


HEADS: dict[str, Head] = {
    CLASSIFIER: Head("classifier", lambda task: task.logit_count, "logits"),
    SEGMENTATION: Head("auxiliary", lambda task: task.segmentation_classes, "seg_logits"),
    PARTIAL_MASKS: Head("auxiliary", lambda task: len(task.mask_classes), "mask_logits", overlapping=True),
}
"""Every head there is. A new kind of supervision adds the one it needs, if any."""


def auxiliary_heads(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the heads named that stand on the feature map."""
    return tuple(name for name in names if HEADS[name].kind == "auxiliary")


def weights_prefix(head: str) -> str:
    """Return what the canonical names of an auxiliary head's weights begin with. (A classifier's, its backbone's card
    says.)"""
    return f"{head}_head."


def of_another_head(weight: str, heads: tuple[str, ...]) -> bool:
    """Return whether a weight belongs to an auxiliary head that is not among `heads`: a model without it leaves it
    out."""
    others = [name for name in auxiliary_heads(tuple(HEADS)) if name not in heads]
    return weight.startswith(tuple(weights_prefix(name) for name in others))


def diagnosis_heads(segmentation: bool) -> tuple[str, ...]:
    """Return the classifier, and the segmentation head beside it or not."""
    return (CLASSIFIER, SEGMENTATION) if segmentation else (CLASSIFIER,)


def without_auxiliary(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical weights without those of any auxiliary head."""
    return {name: array for name, array in weights.items() if not of_another_head(name, ())}


def of_auxiliary(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canonical weights of the auxiliary heads alone."""
    return {name: array for name, array in weights.items() if of_another_head(name, ())}
