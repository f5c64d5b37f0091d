"""The AutoSeg paper's AUC tables as data, with the places marked where they contradict themselves.

Tables 1, 3, 10, 12, 13 and 14. AUC is a fraction (0 to 1), the paper prints per cent. What is not here, and why:

- Table 2 repeats the averages of Table 13.
- Table 8 (F1, sensitivity, ...) and Table 9 (sensitivity and specificity of CT-RATE) have too many damaged cells in the
  text at hand, a scan read by machine. The AUC lines of Table 8 repeat Table 1.
- Table 11 (classes of RAD-ChestCT): three of four rows do not average to the printed number and one looks shifted by a
  column, so no cell can be trusted. Its averages are those of Table 1.

Cells that lost no more than their decimal point in the scan ("7249" for 72.49) are given without a note. Cells that
lost digits or hold letters carry one, with what the scan shows.

Tables 12 and 13 count bowel and extravasation twice: healthy and injured are one two-way group, with one AUC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from anatobench.tasks import get_task


@dataclass(frozen=True)
class PublishedAuc:
    """One number of the paper."""

    auc: float
    """Macro AUC over classes, or the AUC of one class; a fraction."""
    source: str
    """The table, as "Table 1"."""
    note: str = ""
    """What contradicts this number, or how a damaged cell was read; "" where nothing is known against it."""


@dataclass(frozen=True)
class ClassRow:
    """One row of a table per class: one trained model."""

    dataset: str
    model: str
    pretrained: bool
    segmentation_weight: float
    """Weight of the segmentation loss; 0 is without segmentation, 1 the paper's choice elsewhere."""
    classes: Mapping[str, PublishedAuc]
    """By the class names of the data set's task (`Task.class_names`), in the paper's order."""
    average: PublishedAuc
    """As printed, which is not everywhere the mean of `classes`: then its `note` says so."""


def published_auc(dataset: str, model: str, pretrained: bool, segmentation: bool) -> PublishedAuc | None:
    """Table 1's macro AUC; None if the paper has no such model or data set."""
    return TABLE_1.get((dataset, model, pretrained, segmentation))


def published_classes(dataset: str, model: str, pretrained: bool, segmentation_weight: float) -> ClassRow | None:
    """Return the AUC per class of such a model (Tables 10, 12, 13); None if the paper does not print it."""
    asked = (dataset, model, pretrained, segmentation_weight)
    rows = (*TABLE_10, *TABLE_12, *TABLE_13)
    return next((r for r in rows if (r.dataset, r.model, r.pretrained, r.segmentation_weight) == asked), None)


def published_gain(dataset: str, model: str, pretrained: bool) -> float | None:
    """Table 1's macro AUC with minus without segmentation, a fraction; None as for `published_auc`.

    For pretrained `swin3d_t` on `ratic` both numbers carry a note, so its gain may be anything from 9.4 to 11.2
    points (printed: 9.67).
    """
    with_head, without = (published_auc(dataset, model, pretrained, segmentation) for segmentation in (True, False))
    return None if with_head is None or without is None else round(with_head.auc - without.auc, 4)


def _auc(percent: float, source: str, note: str = "") -> PublishedAuc:
    return PublishedAuc(round(percent / 100, 4), source, note)


_WEIGHT_0 = "Table 13 prints 70.88 for weight 0, but its classes average 69.36; 70.88 is also its spleen_high"
_WEIGHT_1 = "Table 13 prints 80.55 for weight 1, but its classes average 80.30"

# Per model and initial weights: without and with segmentation on CT-RATE, RAD-ChestCT and RATIC.
_TABLE_1_PERCENT: Mapping[tuple[str, bool], tuple[float, ...]] = {
    ("r3d_18", False): (83.84, 85.45, 72.93, 74.77, 72.36, 79.75),
    ("mvit_v2_s", False): (80.87, 82.94, 69.54, 72.40, 65.18, 77.92),
    ("swin3d_t", False): (80.22, 83.07, 68.85, 72.99, 65.39, 74.68),
    ("r3d_18", True): (84.83, 85.64, 74.81, 75.93, 82.56, 84.51),
    ("mvit_v2_s", True): (82.13, 84.36, 72.01, 73.90, 70.91, 81.92),
    ("swin3d_t", True): (82.30, 85.58, 72.32, 75.01, 70.88, 80.55),
}
_TABLE_1_COLUMNS = tuple(product(("ct_rate", "rad_chestct", "ratic"), (False, True)))
_TABLE_1_NOTES = {("ratic", "swin3d_t", True, False): _WEIGHT_0, ("ratic", "swin3d_t", True, True): _WEIGHT_1}

TABLE_1: Mapping[tuple[str, str, bool, bool], PublishedAuc] = {
    (key := (dataset, model, pretrained, segmentation)): _auc(percent, "Table 1", _TABLE_1_NOTES.get(key, ""))
    for (model, pretrained), row in _TABLE_1_PERCENT.items()
    for (dataset, segmentation), percent in zip(_TABLE_1_COLUMNS, row, strict=True)
}
"""Macro AUC by (data set, model, pretrained, segmentation). The models are ResNet, MViT and Swin3D in the paper."""


TABLE_3: Mapping[tuple[str, ...], PublishedAuc] = {
    (): _auc(70.88, "Table 3", _WEIGHT_0),
    ("liver",): _auc(69.15, "Table 3"),
    ("kidney_left", "kidney_right"): _auc(76.15, "Table 3"),
    ("spleen",): _auc(71.17, "Table 3"),
    ("bowel",): _auc(79.60, "Table 3"),
    ("liver", "spleen", "kidney_left", "kidney_right", "bowel"): _auc(80.55, "Table 3", _WEIGHT_1),
}
"""Macro AUC of pretrained `swin3d_t` on RATIC by the organs that supervise; the paper's "kidney" is both kidneys. The
first and last are Table 1's model without and with segmentation."""


def _class_rows(
    source: str,
    dataset: str,
    model: str,
    printed: Mapping[tuple[bool, float], Sequence[float]],
    notes: Mapping[tuple[bool, float], Mapping[str, str]] | None = None,
) -> tuple[ClassRow, ...]:
    """Return a row per (pretrained, segmentation weight) of what is printed: the classes from A to Z, then the average.
    `notes` are by class, and under `average`."""
    rows = []
    for trained, (*cells, average) in printed.items():
        noted = (notes or {}).get(trained, {})
        named = zip(sorted(get_task(dataset).class_names), cells, strict=True)
        classes = {name: _auc(percent, source, noted.get(name, "")) for name, percent in named}
        rows.append(ClassRow(dataset, model, *trained, classes, _auc(average, source, noted.get("average", ""))))
    return tuple(rows)


# fmt: off
TABLE_10 = _class_rows("Table 10", "ct_rate", "r3d_18", {
    (False, 0.0): (90.1, 77.3, 79.2, 94.3, 88.3, 88.3, 80.2, 79.3, 87.8,
                   68.1, 86.3, 76.8, 87.1, 89.8, 80.9, 89.2, 97.3, 68.9, 83.84),
    (False, 1.0): (92.3, 79.3, 79.9, 94.7, 89.9, 91.9, 81.2, 83.4, 88.0,
                   69.9, 86.8, 78.8, 89.4, 89.6, 82.1, 91.9, 97.2, 71.8, 85.45),
    (True, 0.0): (93.0, 79.3, 78.5, 92.5, 89.9, 93.4, 79.9, 83.0, 87.9,
                  69.8, 85.4, 77.4, 89.5, 87.8, 81.6, 89.0, 97.3, 71.8, 84.83),
    (True, 1.0): (93.1, 79.6, 80.9, 94.5, 90.3, 93.6, 79.9, 85.9, 87.8,
                  69.2, 86.2, 77.7, 91.3, 88.4, 82.5, 91.3, 97.1, 72.5, 85.64),
}, {
    (False, 1.0): {
        "Lung opacity": "the scan shows 8.8; of 8?.8 only 86.8 fits the average",
        "Pulmonary fibrotic sequela": "the scan shows 7T1.8",
    },
    (True, 0.0): {
        "Lung opacity": "the scan shows 8.4; of 8?.4 85.4 fits the average best, 84.4 is not excluded",
        "Pulmonary fibrotic sequela": "the scan shows 7TL8",
    },
    (True, 1.0): {
        "Coronary artery wall calcification":
            "the scan shows 9036; 93.6 fits the average best, 92.6 is not excluded, 90.36 and 90.6 are",
    },
})
"""`r3d_18` on CT-RATE per class. The caption says "segmentation pretraining"; the method trains jointly."""

TABLE_12 = _class_rows("Table 12", "ratic", "r3d_18", {
    (False, 0.0): (72.0, 69.3, 69.3, 65.0, 65.0, 74.1, 76.2, 69.2, 73.4, 84.5, 69.4, 75.7, 80.9, 69.0, 72.36),
    (False, 1.0): (77.4, 84.1, 84.1, 68.6, 68.6, 84.6, 82.1, 86.5, 77.0, 92.6, 71.0, 80.7, 88.7, 70.4, 79.75),
    (True, 0.0): (80.8, 82.3, 82.3, 73.4, 73.4, 88.8, 87.5, 87.3, 78.3, 89.6, 74.2, 86.1, 91.3, 80.3, 82.56),
    (True, 1.0): (78.8, 93.2, 93.2, 76.4, 76.4, 91.8, 89.7, 81.7, 79.0, 94.4, 73.6, 85.4, 90.3, 79.8, 84.51),
}, {(False, 1.0): {"liver_healthy": "the scan shows Tr.0; 77.0 fits the average"}})
"""`r3d_18` on RATIC per class."""

TABLE_13 = _class_rows("Table 13", "ratic", "swin3d_t", {
    (True, 0.0): (70.40, 73.25, 73.25, 62.23, 62.23, 69.57, 72.49,
                  67.45, 70.81, 75.92, 68.69, 68.36, 70.88, 65.53, 70.88),
    (True, 0.1): (71.69, 83.94, 83.94, 70.41, 70.41, 70.78, 69.94,
                  69.33, 69.08, 79.70, 65.09, 72.35, 72.35, 68.91, 72.70),
    (True, 1.0): (77.34, 84.61, 84.61, 71.52, 71.52, 82.80, 86.62,
                  81.48, 78.92, 96.57, 73.07, 78.86, 85.00, 71.26, 80.55),
    (True, 5.0): (77.11, 83.64, 83.64, 75.47, 75.47, 81.96, 83.07,
                  81.64, 73.05, 88.62, 68.28, 79.65, 85.98, 70.55, 79.15),
    (True, 10.0): (78.26, 84.44, 84.44, 74.25, 74.25, 86.88, 85.33,
                   88.04, 76.81, 91.39, 71.49, 78.91, 86.35, 70.53, 80.81),
}, {(True, 0.0): {"average": _WEIGHT_0}, (True, 1.0): {"average": _WEIGHT_1}})
"""Loss weights, `swin3d_t` on RATIC. Not printed: that it is pretrained follows from Table 1's 70.88 and 80.55."""
# fmt: on


TABLE_14: Mapping[float, PublishedAuc] = {
    0.0: _auc(80.81, "Table 14", "Table 13's model of weight 10; undistorted masks at weight 1 give 80.55 elsewhere"),
    10.0: _auc(80.36, "Table 14"),
    50.0: _auc(81.30, "Table 14"),
}
"""Macro AUC of pretrained `swin3d_t` on RATIC by the per cent of boundary voxels that an erosion or dilation changes.
Its first number suggests weight 10 throughout, which the paper does not say."""
