"""What the data sets' formats share: scans known before they are rendered, tables, masks, a file's orientation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from anatobench.phantom.body import STRUCTURES
from anatobench.system.atomic_files import write_atomically
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.nifti import write_nifti
from anatobench.volumes.organ_folder import SUFFIXES as ORGAN_FILE_SUFFIXES
from anatobench.volumes.organs import STRUCTURES as PARTS_OF_ORGANS


@dataclass(frozen=True)
class Scan:
    """One scan of a patient, known without rendering."""

    patient: int
    """Index in the cohort."""
    number: int
    """Among the patient's scans, from 0."""
    name: str
    """As its case is called in the data set's listing."""
    path: Path
    """Inside the cohort: the file or folder that is written last, so that the scan is complete where it stands."""
    targets: tuple[int, ...]
    """Grade per group of the task."""
    split: str = ""
    """By the data set's name; empty where it has none."""


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as the data sets have it: commas, one header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue().encode())


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an IPL array [D, H, W] and its affine as [k, j, i] of a file whose (i, j, k) run to `axes`, such as
    `LPS`."""
    current = nibabel.orientations.axcodes2ornt(("I", "P", "L"))
    change = nibabel.orientations.ornt_transform(current, nibabel.orientations.axcodes2ornt(tuple(reversed(axes))))
    turned = nibabel.orientations.apply_orientation(array, change)
    return np.ascontiguousarray(turned), affine @ nibabel.orientations.inv_ornt_aff(change, array.shape)


def write_mask(path: Path, labels: np.ndarray, affine: np.ndarray, axes: str, organs: Sequence[str] | None) -> None:
    """Write TotalSegmentator labels, uint8 [D, H, W] turned to `axes`: all in one file with the labels' names, as its
    `--ml`, or those of some organs alone as a folder of that name, with one file per structure."""
    if organs is None:
        write_nifti(path, *reoriented(labels, affine, axes), TOTALSEGMENTATOR_V2)
        return
    folder = path.with_name(path.name.removesuffix(ORGAN_FILE_SUFFIXES[0]))
    for organ in organs:
        for structure in [name for name in PARTS_OF_ORGANS.get(organ, (organ,)) if name in STRUCTURES]:
            inside = (labels == STRUCTURES[structure]).astype(np.uint8)
            write_nifti(folder / f"{structure}{ORGAN_FILE_SUFFIXES[0]}", *reoriented(inside, affine, axes))
