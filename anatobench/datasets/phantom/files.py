"""Files whose bytes depend on their content alone, written whole or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2
from anatobench.volumes.label_names import format_label_names


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to instead; it becomes `path` if nothing goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as the data sets have it: commas, one header line."""
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def nifti_image(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """An image of `array` [i, j, k] with both transforms set, in mm."""
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return image


def write_nifti_image(path: Path, image: nibabel.Nifti1Image) -> None:
    """Write `.nii` or `.nii.gz`; gzip carries neither name nor time."""
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=3, mtime=0) as file:
            file.write(content)
        content = buffer.getvalue()
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """An IPL array [D, H, W] and its affine in another orientation, such as `LPS` or `LAS`, as [i, j, k]."""
    current = nibabel.orientations.axcodes2ornt(("I", "P", "L"))
    change = nibabel.orientations.ornt_transform(current, nibabel.orientations.axcodes2ornt(tuple(axes)))
    turned = nibabel.orientations.apply_orientation(array, change)
    return np.ascontiguousarray(turned), affine @ nibabel.orientations.inv_ornt_aff(change, array.shape)


def write_totalsegmentator_mask(path: Path, labels: np.ndarray, affine: np.ndarray, axes: str) -> None:
    """One multilabel file, uint8 [D, H, W] turned to `axes`, with the labels' names in a header extension.

    The extension is the Caret XML that TotalSegmentator writes with `--ml`, under its code 0.
    """
    turned, turned_affine = reoriented(labels, affine, axes)
    image = nifti_image(turned, turned_affine)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, format_label_names(TOTALSEGMENTATOR_V2)))
    write_nifti_image(path, image)
