"""A synthetic cohort in CT-RATE's layout: original and `_fixed` files, labels, metadata, `ts_seg` masks.

Patients 0, 5, 10, ... are validation patients, the others train; numbers restart in each split, as in CT-RATE.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from anatobench.phantom.body import Body, Finding
from anatobench.phantom.chest import COVERED
from anatobench.phantom.chest_findings import chest_patient, draw_targets
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Settings, render
from anatobench.phantom.scans import Scan, reoriented, write_csv, write_mask
from anatobench.tasks import CT_RATE_LABELS
from anatobench.volumes.nifti import write_nifti, write_nifti_image

INTERCEPTS = (-8192, -1024, 0)
SETTINGS = {
    "tiny": Settings(COVERED, (4.9, 5.3), (8, 10), (12, 20), spare_slices=3, off_centre=5, pixels=(64, 68, 72)),
    "full": Settings(COVERED, (1.28, 1.5), (1, 2.5), (18, 32), spare_slices=3, off_centre=5),
}

draw_patient = partial(chest_patient, signs=CT_RATE_LABELS)


def scans_of(plan: CohortPlan, index: int) -> list[Scan]:
    """Return the reconstructions of patient `index`, by their `_fixed` files."""
    split, number = ("valid", index // 5 + 1) if index % 5 == 0 else ("train", index - index // 5)
    patient, targets = f"{split}_{number}", draw_targets(plan, index, CT_RATE_LABELS)
    folder = Path("dataset", f"{split}_fixed", patient, f"{patient}_a")
    names = [f"{patient}_a_{n + 1}" for n in range(plan.scans(index))]
    return [Scan(index, n, name, folder / f"{name}.nii.gz", targets, split) for n, name in enumerate(names)]


def write_scan(root: Path, plan: CohortPlan, scan: Scan, body: Body, findings: tuple[Finding, ...]) -> None:
    """Write a reconstruction's mask, its original file and its `_fixed` one."""
    rng = plan.rng(scan.patient, Stream.SERIES + scan.number)
    volume, labels = render(rng, body, findings, SETTINGS[plan.size].draw(rng))
    dataset, fixed, *file = scan.path.parts
    mask = root.joinpath(dataset, "ts_seg", "ts_total", fixed, *file)
    write_mask(mask, labels, volume.affine, "LPS", plan.organs_of(scan.patient))
    stored, affine = reoriented(volume.voxels, volume.affine, "LPS")
    # as the original files are: stored values in floats, [i, j, k], no place or size in the header
    original = (stored.astype(np.int32) - _intercept(scan)).astype(np.float32).transpose(2, 1, 0)
    write_nifti_image(root.joinpath(dataset, scan.split, *file), nibabel.Nifti1Image(original, np.eye(4)))
    write_nifti(root / scan.path, stored, affine)


def _intercept(scan: Scan) -> int:
    return INTERCEPTS[(scan.patient + scan.number) % len(INTERCEPTS)]


def write_tables(root: Path, plan: CohortPlan, scans: Sequence[Scan]) -> None:
    """Write labels, metadata and the (empty) lists of volumes that are no chests."""
    dataset, columns = root / "dataset", list(_metadata(plan, scans[0]))
    for split, table in (("train", "train_metadata.csv"), ("valid", "validation_metadata.csv")):
        of_split = [scan for scan in scans if scan.split == split]
        metadata = [list(_metadata(plan, scan).values()) for scan in of_split]
        write_csv(dataset / "metadata" / table, columns, metadata)
        (dataset / "metadata" / f"no_chest_{split}.txt").touch()
        labels = dataset / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        rows = [[scan.path.name, *scan.targets] for scan in of_split]
        write_csv(labels, ["VolumeName", *CT_RATE_LABELS], rows)


def _metadata(plan: CohortPlan, scan: Scan) -> dict[str, object]:
    """Return what the metadata say of a scan, by column."""
    scanner = SETTINGS[plan.size].draw(plan.rng(scan.patient, Stream.SERIES + scan.number))
    between, in_plane, _ = scanner.spacing
    slices, rows, columns = scanner.size
    # LPS position of the file's first voxel: the lowest slice's front right corner
    lowest = scanner.affine @ [slices - 1, 0, 0, 1] * [-1, -1, 1, 1]
    return {
        "VolumeName": scan.path.name,
        "Manufacturer": "Phantom",
        "SeriesDescription": "chest",
        "ManufacturerModelName": "Phantom",
        "PatientSex": "F" if scan.number % 2 else "M",
        "PatientAge": "050Y",
        "ConvolutionKernel": "soft",
        "ImagePositionPatient": str([round(float(at), 4) for at in lowest[:3]]),
        "ImageOrientationPatient": "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]",
        "Rows": rows,
        "Columns": columns,
        "RescaleIntercept": _intercept(scan),
        "RescaleSlope": 1,
        "NumberofSlices": slices,
        "XYSpacing": f"[{in_plane}, {in_plane}]",
        "ZSpacing": between,
    }
