"""A synthetic cohort in CT-RATE's layout: original and `_fixed` files, labels, metadata, `ts_seg` masks.

Patients 0, 5, 10, ... are validation patients, the others train; numbers restart in each split, as in CT-RATE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from anatobench.phantom.chest_scanner import chest_patient, chest_scanner, draw_targets
from anatobench.phantom.files import reoriented, write_csv, write_totalsegmentator_mask
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner, render
from anatobench.tasks import CT_RATE_LABELS
from anatobench.volumes.nifti import write_nifti, write_nifti_image

INTERCEPTS = (-8192, -1024, 0)
TWO_RECONSTRUCTIONS_SHARE = 0.25
METADATA_COLUMNS = (
    *("VolumeName", "Manufacturer", "SeriesDescription", "ManufacturerModelName", "PatientSex", "PatientAge"),
    *("ConvolutionKernel", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"),
    *("RescaleIntercept", "RescaleSlope", "NumberofSlices", "XYSpacing", "ZSpacing"),
)


@dataclass(frozen=True)
class Reconstruction:
    """One file of a patient, known without rendering."""

    name: str
    """Without `.nii.gz`."""
    split: str
    """`train` or `valid`."""
    number: int
    """Among the patient's files, from 0."""
    intercept: int

    @property
    def file(self) -> Path:
        """Inside a split's folder."""
        split, patient, scan, _ = self.name.split("_")
        return Path(f"{split}_{patient}") / f"{split}_{patient}_{scan}" / f"{self.name}.nii.gz"


def reconstructions(plan: CohortPlan, index: int) -> tuple[Reconstruction, ...]:
    """Return the files of patient `index`."""
    valid = index % 5 == 0
    split, patient = ("valid", index // 5 + 1) if valid else ("train", index - index // 5)
    count = 2 if plan.share(index, 50) < TWO_RECONSTRUCTIONS_SHARE else 1
    return tuple(
        Reconstruction(f"{split}_{patient}_a_{n + 1}", split, n, INTERCEPTS[(index + n) % len(INTERCEPTS)])
        for n in range(count)
    )


def write_patient(root: Path, plan: CohortPlan, index: int) -> None:
    """Write the files of a patient with their masks, except those that already stand."""
    dataset = root / "dataset"
    files = reconstructions(plan, index)
    missing = [one for one in files if not (dataset / f"{one.split}_fixed" / one.file).is_file()]
    if not missing:
        return
    present = dict(zip(CT_RATE_LABELS, draw_targets(plan, index, CT_RATE_LABELS), strict=True))
    body, findings = chest_patient(plan, index, present)
    for one in missing:
        rng, scanner = _scanner(plan, index, one)
        volume, labels = render(rng, body, findings, scanner)
        mask = dataset / "ts_seg" / "ts_total" / f"{one.split}_fixed" / one.file
        if plan.is_masked(index):
            write_totalsegmentator_mask(mask, labels, volume.affine, "LPS")
        stored, affine = reoriented(volume.voxels, volume.affine, "LPS")
        write_nifti_image(dataset / one.split / one.file, _blank_image(stored, one.intercept))
        write_nifti(dataset / f"{one.split}_fixed" / one.file, stored, affine)


def _scanner(plan: CohortPlan, index: int, one: Reconstruction) -> tuple[np.random.Generator, Scanner]:
    rng = plan.rng(index, Stream.SERIES + one.number)
    return rng, chest_scanner(rng, plan.size)


def _blank_image(hu: np.ndarray, intercept: int) -> nibabel.Nifti1Image:
    """As the original files are: [k, j, i] HU as stored values in floats, no place or size in the header."""
    return nibabel.Nifti1Image((hu.astype(np.int32) - intercept).astype(np.float32).transpose(2, 1, 0), np.eye(4))


def write_tables(root: Path, plan: CohortPlan) -> list[tuple[int, ...]]:
    """Write labels, metadata and the (empty) lists of volumes that are no chests."""
    dataset = root / "dataset"
    all_targets = []
    for split, metadata in (("train", "train_metadata.csv"), ("valid", "validation_metadata.csv")):
        label_rows: list[list[object]] = []
        metadata_rows: list[list[object]] = []
        for index, one in _of_split(plan, split):
            targets = draw_targets(plan, index, CT_RATE_LABELS)
            all_targets.append(targets)
            label_rows.append([f"{one.name}.nii.gz", *targets])
            metadata_rows.append(_metadata_row(one, _scanner(plan, index, one)[1]))
        write_csv(dataset / "metadata" / metadata, METADATA_COLUMNS, metadata_rows)
        (dataset / "metadata" / f"no_chest_{split}.txt").touch()
        labels = dataset / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        write_csv(labels, ["VolumeName", *CT_RATE_LABELS], label_rows)
    return all_targets


def _of_split(plan: CohortPlan, split: str) -> Iterator[tuple[int, Reconstruction]]:
    for index in range(plan.cases):
        for one in reconstructions(plan, index):
            if one.split == split:
                yield index, one


def _metadata_row(one: Reconstruction, scanner: Scanner) -> list[object]:
    between, in_plane, _ = scanner.spacing
    slices, rows, columns = scanner.size
    # LPS position of the file's first voxel: the lowest slice's front right corner
    lowest = scanner.affine @ [slices - 1, 0, 0, 1]
    position = [round(float(-lowest[0]), 4), round(float(-lowest[1]), 4), round(float(lowest[2]), 4)]
    values = {
        "VolumeName": f"{one.name}.nii.gz",
        "Manufacturer": "Phantom",
        "SeriesDescription": "chest",
        "ManufacturerModelName": "Phantom",
        "PatientSex": "F" if one.number % 2 else "M",
        "PatientAge": "050Y",
        "ConvolutionKernel": "soft",
        "ImagePositionPatient": str(position),
        "ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]",
        "Rows": rows,
        "Columns": columns,
        "RescaleIntercept": one.intercept,
        "RescaleSlope": 1,
        "NumberofSlices": slices,
        "XYSpacing": f"[{in_plane}, {in_plane}]",
        "ZSpacing": between,
    }
    return [values[column] for column in METADATA_COLUMNS]
