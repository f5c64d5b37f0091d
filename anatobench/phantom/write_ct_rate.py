"""A synthetic cohort in CT-RATE's layout: original and `_fixed` files, labels, metadata, `ts_seg` masks.

Patients 0, 5, 10, ... are validation patients, the others train; numbers restart in each split, as in CT-RATE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from anatobench.phantom.chest_scanner import chest_patient, chest_scanner, draw_targets
from anatobench.phantom.files import reoriented, write_csv, write_mask
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner, render
from anatobench.tasks import CT_RATE_LABELS
from anatobench.volumes.nifti import write_nifti, write_nifti_image

INTERCEPTS = (-8192, -1024, 0)
TWO_RECONSTRUCTIONS_SHARE = 0.25


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
    body, findings = chest_patient(plan, index, CT_RATE_LABELS)
    for one in missing:
        rng, scanner = _scanner(plan, index, one)
        volume, labels = render(rng, body, findings, scanner)
        mask = dataset / "ts_seg" / "ts_total" / f"{one.split}_fixed" / one.file
        write_mask(mask, labels, volume.affine, "LPS", plan.organs_of(index))
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
    dataset, all_targets = root / "dataset", []
    files = [(index, one) for index in range(plan.cases) for one in reconstructions(plan, index)]
    metadata = [(one.split, _metadata(one, _scanner(plan, index, one)[1])) for index, one in files]
    for split, table in (("train", "train_metadata.csv"), ("valid", "validation_metadata.csv")):
        of_split = [row for of, row in metadata if of == split]
        write_csv(dataset / "metadata" / table, list(metadata[0][1]), [list(row.values()) for row in of_split])
        (dataset / "metadata" / f"no_chest_{split}.txt").touch()
        targets = [draw_targets(plan, index, CT_RATE_LABELS) for index, one in files if one.split == split]
        rows = [[row["VolumeName"], *values] for row, values in zip(of_split, targets, strict=True)]
        labels = dataset / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        write_csv(labels, ["VolumeName", *CT_RATE_LABELS], rows)
        all_targets += targets
    return all_targets


def _metadata(one: Reconstruction, scanner: Scanner) -> dict[str, object]:
    """Return what the metadata say of a file, by column."""
    between, in_plane, _ = scanner.spacing
    slices, rows, columns = scanner.size
    # LPS position of the file's first voxel: the lowest slice's front right corner
    lowest = scanner.affine @ [slices - 1, 0, 0, 1] * [-1, -1, 1, 1]
    return {
        "VolumeName": f"{one.name}.nii.gz",
        "Manufacturer": "Phantom",
        "SeriesDescription": "chest",
        "ManufacturerModelName": "Phantom",
        "PatientSex": "F" if one.number % 2 else "M",
        "PatientAge": "050Y",
        "ConvolutionKernel": "soft",
        "ImagePositionPatient": str([round(float(at), 4) for at in lowest[:3]]),
        "ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]",
        "Rows": rows,
        "Columns": columns,
        "RescaleIntercept": one.intercept,
        "RescaleSlope": 1,
        "NumberofSlices": slices,
        "XYSpacing": f"[{in_plane}, {in_plane}]",
        "ZSpacing": between,
    }
