"""A synthetic cohort in RAD-ChestCT's layout: `.npz` in HU at 0.8 mm, label tables, metadata, and masks/<scan>.nii.gz.

The format is 0.8 mm isotropic by definition, so a coarser rendering is repeated (tiny) or interpolated (full) to it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from anatobench.phantom.body import Body, Finding
from anatobench.phantom.chest import COVERED
from anatobench.phantom.chest_findings import CARDIOMEGALY, chest_patient, draw_targets
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner, render
from anatobench.phantom.scans import Scan, write_csv, write_mask
from anatobench.system.atomic_files import write_atomically
from anatobench.tasks import RAD_CHESTCT_LABELS

SPACING_MM = 0.8
ENLARGEMENT = {"full": 2, "tiny": 6}
"""Voxels of 0.8 mm per rendered voxel and axis."""
NOISE = {"full": 24.0, "tiny": 15.0}
FIELD_OF_VIEW_MM = 336.0
HU_LIMITS = (-1000, 1000)
SIGN_OF_LABEL: Mapping[str, str] = {
    "catheter_or_port": "Medical material",
    "lymphadenopathy": "Lymphadenopathy",
    "septal_thickening": "Interlobular septal thickening",
    "hernia": "Hiatal hernia",
    "nodule": "Lung nodule",
    "pericardial_effusion": "Pericardial effusion",
    "scarring": "Pulmonary fibrotic sequela",
    "bronchial_wall_thickening": "Peribronchial thickening",
    "opacity": "Lung opacity",
    "emphysema": "Emphysema",
    "cardiomegaly": CARDIOMEGALY,
    "pleural_effusion": "Pleural effusion",
    "bronchiectasis": "Bronchiectasis",
    "consolidation": "Consolidation",
    "atelectasis": "Atelectasis",
    "calcification": "Calcification",
}
OTHER_ABNORMALITIES = ("nodulegr1cm", "scattered_calc", "scattered_nod", "pericardial_thickening", "pleural_thickening")
"""Columns whose names lie near those of the task's labels; their values are drawn and mean nothing."""
LOCATIONS = (
    *("right_upper", "right_mid", "right_lower", "left_upper", "left_lower"),
    *("heart", "mediastinum", "other_location"),
)
SUBSETS = {"imgtrain": "trn", "imgvalid": "val", "imgtest": "tst"}
"""Label table and the first letters of its scans' names."""

draw_patient = partial(chest_patient, signs=[SIGN_OF_LABEL[label] for label in RAD_CHESTCT_LABELS])


def scans_of(plan: CohortPlan, index: int) -> list[Scan]:
    """Return the one scan of patient `index`: of five in a row three are imgtrain, one imgvalid, one imgtest."""
    subset = ("imgtrain", "imgtrain", "imgvalid", "imgtrain", "imgtest")[index % 5]
    name = f"{SUBSETS[subset]}{7 * index + plan.rng(index, Stream.IDENTITY).integers(1, 8):05d}"
    return [Scan(index, 0, name, Path(f"{name}.npz"), draw_targets(plan, index, RAD_CHESTCT_LABELS), subset)]


def write_scan(root: Path, plan: CohortPlan, scan: Scan, body: Body, findings: tuple[Finding, ...]) -> None:
    """Write a scan and its mask."""
    rng = plan.rng(scan.patient, Stream.SERIES)
    volume, labels = render(rng, body, findings, _scanner(rng, plan.size))
    factor, mask = ENLARGEMENT[plan.size], root / "masks" / f"{scan.name}.nii.gz"
    write_mask(mask, labels, _placed_like_npz(factor), "LPS", plan.organs_of(scan.patient))
    voxels = np.clip(volume.voxels, *HU_LIMITS)
    if factor == 2:  # either way blocks of voxels are aligned with the mask's
        enlarged = zoom(voxels, factor, order=1, grid_mode=True, mode="nearest")
    else:
        enlarged = voxels.repeat(factor, axis=0).repeat(factor, axis=1).repeat(factor, axis=2)
    _write_npz(root / scan.path, enlarged)


def _scanner(rng: np.random.Generator, size: str) -> Scanner:
    spacing = SPACING_MM * ENLARGEMENT[size]
    side = round(FIELD_OF_VIEW_MM * rng.uniform(0.97, 1.03) / spacing)
    lowest, highest = COVERED
    slices = round((highest - lowest + rng.uniform(4, 20)) / spacing)
    x, y, z = (float(v) for v in rng.uniform(-4, 4, 3))
    middle = (x, y, (highest + lowest) / 2 + z)
    return Scanner((slices, side, side), (spacing, spacing, spacing), middle, (0.0, 0.0, 0.0), NOISE[size])


def _placed_like_npz(factor: int) -> np.ndarray:
    """Return the rendered grid in the frame of a file without a header: its first 0.8 mm voxel lies at the origin."""
    spacing, shift = SPACING_MM * factor, SPACING_MM * (factor - 1) / 2
    r = -spacing
    return np.array([[0, 0, r, -shift], [0, r, 0, -shift], [r, 0, 0, -shift], [0, 0, 0, 1]], dtype=np.float64)


def _write_npz(path: Path, voxels: np.ndarray) -> None:
    """Write what `numpy.savez_compressed(path, ct=voxels)` does, without the time, and faster."""
    array, content = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, np.ascontiguousarray(voxels), allow_pickle=False)
    with zipfile.ZipFile(content, "w") as archive:
        member = zipfile.ZipInfo("ct.npy", date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(member, array.getbuffer(), zipfile.ZIP_DEFLATED, compresslevel=1)
    write_atomically(path, content.getvalue())


def write_tables(root: Path, plan: CohortPlan, scans: Sequence[Scan]) -> None:
    """Write the label table of each subset and the metadata."""
    abnormalities = (*RAD_CHESTCT_LABELS, *OTHER_ABNORMALITIES)
    header = ["NoteAcc_DEID", *(f"{name}*{location}" for name in abnormalities for location in LOCATIONS)]
    for subset in SUBSETS:
        rows = [_label_row(plan, scan) for scan in scans if scan.split == subset]
        write_csv(root / f"{subset}_Abnormality_and_Location_Labels.csv", header, rows)
    columns = ["MRN_DEID", "NoteAcc_DEID", "status", "final_spacing"]
    metadata = [[500_000 + int(scan.name[3:]), scan.name, scan.split, SPACING_MM] for scan in scans]
    write_csv(root / "CT_Scan_Metadata_Complete_35747.csv", columns, metadata)


def _label_row(plan: CohortPlan, scan: Scan) -> list[object]:
    """Return a scan's name and, per abnormality and location, 0 or 1: one location of those that are present."""
    rng = plan.rng(scan.patient, Stream.LABELS)
    row: list[object] = [scan.name]
    for value in (*scan.targets, *rng.integers(0, 2, len(OTHER_ABNORMALITIES))):
        where = rng.integers(len(LOCATIONS))
        row += [int(value and position == where) for position in range(len(LOCATIONS))]
    return row
