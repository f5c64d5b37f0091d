"""Tables, and scans and masks in a file's own orientation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np

from anatobench.system.atomic_files import write_atomically
from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.nifti import write_nifti


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


def write_totalsegmentator_mask(path: Path, labels: np.ndarray, affine: np.ndarray, axes: str) -> None:
    """Write one multilabel file, uint8 [D, H, W] turned to `axes`, with the labels' names, as TotalSegmentator's
    `--ml`."""
    write_nifti(path, *reoriented(labels, affine, axes), TOTALSEGMENTATOR_V2)
