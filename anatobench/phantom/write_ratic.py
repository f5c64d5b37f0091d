"""A synthetic cohort in RATIC's Kaggle layout, plus TotalSegmentator masks under `masks/`.

train.csv, train_series_meta.csv, train_images/<patient>/<series>/<instance>.dcm, segmentations/<series>.nii (some),
masks/<series>.nii.gz (all but those of unmasked patients; of a partial cohort masks/<series>/<structure>.nii.gz, and no
segmentations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anatobench.phantom.abdomen import LOOKS, abdomen_body, abdomen_findings
from anatobench.phantom.body import BOWEL, STRUCTURES, Body, Finding
from anatobench.phantom.dicom_files import PIXEL_FORMATS, write_series
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Settings, render
from anatobench.phantom.scans import Scan, reoriented, write_csv, write_mask
from anatobench.tasks import RATIC
from anatobench.volumes.nifti import write_nifti

GRADE_SHARES = {
    "typical": {2: (0.7, 0.3), 3: (0.7, 0.15, 0.15)},
    "moderate": {2: (0.6, 0.4), 3: (0.6, 0.15, 0.25)},
    "large": {2: (0.6, 0.4), 3: (0.6, 0.15, 0.25)},
}
"""Per `CohortPlan.injuries` and number of grades."""
SEGMENTATION_SHARE = 0.4
KAGGLE_LABELS = {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, **dict.fromkeys(BOWEL, 5)}
COVERED = (-166.0, 148.0)
SETTINGS = {
    "tiny": Settings(COVERED, (4.7, 5.3), (8, 10), (9, 15), spare_slices=4, off_centre=6, pixels=(64, 68, 72)),
    "full": Settings(COVERED, (1.28, 1.5), (1.5, 3), (12, 22), spare_slices=4, off_centre=6),
}


def scans_of(plan: CohortPlan, index: int) -> list[Scan]:
    """Return the series of patient `index`."""
    rng, shares = plan.rng(index, Stream.IDENTITY), GRADE_SHARES[plan.injuries]
    grades = [plan.grade(index, question, shares[len(group.grades)]) for question, group in enumerate(RATIC.groups)]
    series = [f"{1000 + 29 * (2 * index + number) + rng.integers(29)}" for number in range(plan.scans(index))]
    patient = f"{10_000 + 61 * index + rng.integers(61)}"
    return [
        Scan(index, number, f"{patient}_{one}", Path("train_images", patient, one), tuple(grades))
        for number, one in enumerate(series)
    ]


def draw_patient(plan: CohortPlan, scan: Scan) -> tuple[Body, tuple[Finding, ...]]:
    """Return the body and the findings of a scan's patient."""
    body, rng = abdomen_body(plan.rng(scan.patient, Stream.BODY)), plan.rng(scan.patient, Stream.FINDINGS)
    return body, abdomen_findings(rng, body, scan.targets, LOOKS[plan.size][plan.injuries])


def write_scan(root: Path, plan: CohortPlan, scan: Scan, body: Body, findings: tuple[Finding, ...]) -> None:
    """Write a series with its mask and, of some patients whose masks are whole, Kaggle's own segmentation."""
    index, number, series, organs = scan.patient, scan.number, scan.path.name, plan.organs_of(scan.patient)
    rng = plan.rng(index, Stream.SERIES + number)
    volume, labels = render(rng, _in_phase(rng, body, number), findings, SETTINGS[plan.size].draw(rng))
    write_mask(root / "masks" / f"{series}.nii.gz", labels, volume.affine, "LAS", organs)
    if organs is None and plan.share(index, 51) < SEGMENTATION_SHARE:
        _write_segmentation(root / "segmentations" / f"{series}.nii", labels, volume.affine)
    head_first = bool((index + number) % 2)
    pixels = PIXEL_FORMATS[(index // 2 + number) % len(PIXEL_FORMATS)]
    write_series(root / scan.path, volume, int(rng.integers(2, 400)), head_first, pixels)


def _in_phase(rng: np.random.Generator, body: Body, number: int) -> Body:
    """Return the body as the series of that number shows it: the second is later, with fainter vessels."""
    if number == 0:
        return body
    fade = rng.uniform(0.7, 0.85)
    vessels = ("aorta", "inferior_vena_cava")
    return tuple(replace(part, hu=part.hu * fade) if part.structure in vessels else part for part in body)


def _write_segmentation(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Kaggle's own labels, on a grid that is flipped against the series in two axes."""
    table = np.zeros(256, dtype=np.uint8)
    for structure, value in KAGGLE_LABELS.items():
        table[STRUCTURES[structure]] = value
    write_nifti(path, *reoriented(table[labels], affine, "LAS"))


def write_tables(root: Path, plan: CohortPlan, scans: Sequence[Scan]) -> None:
    """Write train.csv (one-hot per group, then any_injury) and train_series_meta.csv."""
    rows, series_rows = [], []
    for scan in scans:
        _, patient, series = scan.path.parts
        (aorta,) = (part for part in abdomen_body(plan.rng(scan.patient, Stream.BODY)) if part.structure == "aorta")
        series_rows.append([patient, series, round(aorta.hu, 1), 0])
        if scan.number == 0:
            grades = zip(RATIC.groups, scan.targets, strict=True)
            one_hot = [int(target == grade) for group, target in grades for grade in range(len(group.grades))]
            rows.append([patient, *one_hot, int(any(scan.targets))])
    write_csv(root / "train_series_meta.csv", ["patient_id", "series_id", "aortic_hu", "incomplete_organ"], series_rows)
    write_csv(root / "train.csv", ["patient_id", *RATIC.class_names], rows)
