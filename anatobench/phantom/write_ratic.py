"""A synthetic cohort in RATIC's Kaggle layout, plus TotalSegmentator masks under `masks/`.

train.csv, train_series_meta.csv, train_images/<patient>/<series>/<instance>.dcm, segmentations/<series>.nii (some),
masks/<series>.nii.gz (all but those of unmasked patients; of a partial cohort masks/<series>/<structure>.nii.gz, and no
segmentations).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anatobench.phantom.abdomen import LOOKS, abdomen_body, abdomen_findings
from anatobench.phantom.body import BOWEL, STRUCTURES, Body
from anatobench.phantom.dicom_files import PIXEL_FORMATS, write_series
from anatobench.phantom.files import reoriented, write_csv, write_mask
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner, Settings, draw_scanner, render
from anatobench.tasks import RATIC
from anatobench.volumes.nifti import write_nifti

GRADE_SHARES = {
    "typical": {2: (0.7, 0.3), 3: (0.7, 0.15, 0.15)},
    "moderate": {2: (0.6, 0.4), 3: (0.6, 0.15, 0.25)},
    "large": {2: (0.6, 0.4), 3: (0.6, 0.15, 0.25)},
}
"""Per `CohortPlan.injuries` and number of grades."""
TWO_SERIES_SHARE = 0.25
SEGMENTATION_SHARE = 0.4
KAGGLE_LABELS = {"liver": 1, "spleen": 2, "kidney_left": 3, "kidney_right": 4, **dict.fromkeys(BOWEL, 5)}
LOWEST, HIGHEST = -166.0, 148.0
"""What every scan covers, in the body's mm."""
SETTINGS = {
    "tiny": Settings(in_plane=(4.7, 5.3), between=(8, 10), noise=(9, 15), pixels=(64, 68, 72)),
    "full": Settings(in_plane=(1.28, 1.5), between=(1.5, 3), noise=(12, 22)),
}


@dataclass(frozen=True)
class RaticPatient:
    """Who a patient is, known without rendering anything."""

    patient_id: int
    targets: tuple[int, ...]
    series_ids: tuple[int, ...]
    has_segmentation: bool
    """Whether Kaggle's own segmentation of its series exists."""


def ratic_patient(plan: CohortPlan, index: int) -> RaticPatient:
    """Identity and labels of patient `index`."""
    rng = plan.rng(index, Stream.IDENTITY)
    shares = GRADE_SHARES[plan.injuries]
    targets = tuple(
        plan.grade(index, question, shares[len(group.grades)]) for question, group in enumerate(RATIC.groups)
    )
    count = 2 if plan.share(index, 50) < TWO_SERIES_SHARE else 1
    series_ids = tuple(int(1000 + 29 * (2 * index + number) + rng.integers(29)) for number in range(count))
    segmented = plan.is_masked(index) and not plan.partial and plan.share(index, 51) < SEGMENTATION_SHARE
    patient_id = int(10_000 + 61 * index + rng.integers(61))
    return RaticPatient(patient_id, targets, series_ids, segmented)


def write_patient(root: Path, plan: CohortPlan, index: int) -> None:
    """Write every series of a patient with its masks, except series that already stand."""
    patient = ratic_patient(plan, index)
    folders = [root / "train_images" / str(patient.patient_id) / str(series) for series in patient.series_ids]
    if all(folder.is_dir() for folder in folders):
        return
    body = abdomen_body(plan.rng(index, Stream.BODY))
    findings = abdomen_findings(
        plan.rng(index, Stream.FINDINGS), body, patient.targets, LOOKS[plan.size, plan.injuries]
    )
    for number, folder in enumerate(folders):
        if folder.is_dir():
            continue
        rng = plan.rng(index, Stream.SERIES + number)
        volume, labels = render(rng, _in_phase(rng, body, number), findings, abdomen_scanner(rng, plan.size))
        series = patient.series_ids[number]
        mask = root / "masks" / f"{series}.nii.gz"
        write_mask(mask, labels, volume.affine, "LAS", plan.organs_of(index))
        if patient.has_segmentation:
            _write_segmentation(root / "segmentations" / f"{series}.nii", labels, volume.affine)
        head_first = bool((index + number) % 2)
        pixels = PIXEL_FORMATS[(index // 2 + number) % len(PIXEL_FORMATS)]
        write_series(folder, volume, int(rng.integers(2, 400)), head_first, pixels)


def abdomen_scanner(rng: np.random.Generator, size: str) -> Scanner:
    """Return a scan of the abdomen."""
    return draw_scanner(rng, SETTINGS[size], LOWEST, HIGHEST, spare_slices=4, off_centre=6)


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


def write_tables(root: Path, plan: CohortPlan) -> list[tuple[int, ...]]:
    """Write train.csv (one-hot per group, then any_injury) and train_series_meta.csv."""
    rows, series_rows, all_targets = [], [], []
    for index in range(plan.cases):
        patient = ratic_patient(plan, index)
        grades = zip(RATIC.groups, patient.targets, strict=True)
        one_hot = [int(target == grade) for group, target in grades for grade in range(len(group.grades))]
        rows.append([patient.patient_id, *one_hot, int(any(patient.targets))])
        (aorta,) = (part for part in abdomen_body(plan.rng(index, Stream.BODY)) if part.structure == "aorta")
        for series in patient.series_ids:
            series_rows.append([patient.patient_id, series, round(aorta.hu, 1), 0])
            all_targets.append(patient.targets)
    write_csv(root / "train_series_meta.csv", ["patient_id", "series_id", "aortic_hu", "incomplete_organ"], series_rows)
    write_csv(root / "train.csv", ["patient_id", *RATIC.class_names], rows)
    return all_targets
