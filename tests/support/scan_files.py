"""Scan files for tests, written with nibabel and pydicom and without the package's own code."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data" / "totalsegmentator_sample"
"""Real CT that lies beside the repository on some machines."""
NO_SHARED_DATA = "the real CT sample (../shared/data) is not on this machine"

AFFINE = np.array([[0.0, 0, -1.5, 40], [0, -2, 0, 50], [-3, 0, 0, 60], [0, 0, 0, 1]])
"""(d, h, w) of an IPL array to RAS+ mm: 3 mm slices, 2 mm rows, 1.5 mm columns."""


def distinct_voxels(size: tuple[int, int, int] = (5, 6, 7), seed: int = 0) -> np.ndarray:
    """int16 [D, H, W] in which no two voxels are alike, so that no swap or flip of axes goes unseen."""
    values = np.random.default_rng(seed).permutation(np.prod(size)) - 1000
    return values.reshape(size).astype(np.int16)


def body_voxels(size: tuple[int, int, int] = (12, 24, 24), seed: int = 0) -> np.ndarray:
    """int16 [D, H, W] HU of an ellipse of soft tissue with fat around it, two lungs and a spine, in air, with noise."""
    rng = np.random.default_rng(seed)
    h, w = (np.linspace(-1, 1, n) for n in size[1:])
    radius = np.hypot(h[:, None] / 0.7, w[None] / 0.9)
    plane = np.select([radius < 0.85, radius < 1], [40.0, -100.0], -1000.0)
    lungs = np.hypot(h[:, None] / 0.4, (np.abs(w[None]) - 0.4) / 0.25) < 1
    plane[lungs] = -850
    plane[np.hypot(h[:, None] - 0.5, w[None]) < 0.15] = 700
    return np.rint(plane + rng.normal(0, 10, size)).astype(np.int16)


def turned(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an IPL array and its affine with other axes, such as `RAS`; every voxel keeps its place in the patient."""
    target = nibabel.orientations.axcodes2ornt(tuple(axes))
    change = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), target)
    return (
        nibabel.orientations.apply_orientation(array, change),
        affine @ nibabel.orientations.inv_ornt_aff(change, array.shape),
    )


def write_nifti_file(path: Path, array: np.ndarray, affine: np.ndarray | None, **header: Any) -> Path:
    """Return an [i, j, k] array as it is, with header fields set after nibabel is done; gzip by the path's name."""
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    content = bytearray(image.to_bytes())
    block = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in header.items():
        block[name] = value
    content[:348] = block.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if path.suffix == ".gz" else bytes(content))
    return path


def write_dicom_slice(path: Path, stored: np.ndarray, position: Sequence[float], **tags: Any) -> Path:
    """Return one CT slice; `stored` is [rows, columns] of 16-bit integers. Tags replace the defaults; None leaves one
    out."""
    rle = tags.pop("rle", False)
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3.4",
        "Modality": "CT",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": tags.get("BitsStored", 16) - 1,
        "PixelRepresentation": 0,
        "PixelSpacing": [2.0, 1.5],
        "SliceThickness": 99.0,
        "ImagePositionPatient": [float(x) for x in position],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **tags,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rle:
            dataset.compress(RLELossless)
        dataset.save_as(path, enforce_file_format=True)
    return path


def write_dicom_series(folder: Path, hounsfield: np.ndarray, **tags: Any) -> Path:
    """Return an IPL volume [D, H, W] that lies as `AFFINE` says, one slice per file, unsigned with intercept -1024."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(hounsfield):
        position = (-40.0, -50.0, 60.0 - 3 * number)  # LPS
        stored = (plane.astype(np.int32) + 1024).astype(np.uint16)
        write_dicom_slice(folder / f"{number}.dcm", stored, position, InstanceNumber=number + 1, **tags)
    return folder
