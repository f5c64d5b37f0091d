"""A volume as an RLE-compressed DICOM series, in the variants that occur in RATIC."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from anatobench.volumes.volume import Volume

PARTIAL_SUFFIX = ".partial"
"""Of a hidden folder that becomes a series by renaming once it is whole."""


@dataclass(frozen=True)
class PixelFormat:
    """How HU are stored: HU = stored + intercept."""

    bits_stored: int
    signed: bool
    intercept: int

    def encode(self, hu: np.ndarray) -> np.ndarray:
        """Return the stored values of int16 [H, W] HU, int16 or uint16 of the same shape.

        In 12 bits signed the upper four bits are zero instead of repeating the sign, as in the competition's files.
        """
        low = -(1 << (self.bits_stored - 1)) if self.signed else 0
        stored = np.clip(hu.astype(np.int32) - self.intercept, low, low + (1 << self.bits_stored) - 1)
        if self.bits_stored == 12:
            stored &= 0x0FFF
        return stored.astype(np.int16 if self.signed else np.uint16)


PIXEL_FORMATS = (
    PixelFormat(12, False, -1024),
    PixelFormat(12, True, 0),
    PixelFormat(16, False, -8192),
    PixelFormat(16, True, -1024),
)


def write_series(folder: Path, volume: Volume, first_instance: int, head_first: bool, pixels: PixelFormat) -> None:
    """Write `<instance number>.dcm` for every slice into the folder `<patient>/<series>`, the lowest number for the
    topmost slice where `head_first`. The folder appears when all of them are written.

    The files are not flushed to the disk one by one: that would take as long again as making them.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        indices = range(volume.voxels.shape[0])
        for number, index in enumerate(indices if head_first else reversed(indices), start=first_instance):
            dataset = _slice_dataset(volume, index, number, head_first, pixels, folder)
            dataset.save_as(partial / f"{number}.dcm", enforce_file_format=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _slice_dataset(
    volume: Volume, slice_index: int, number: int, head_first: bool, pixels: PixelFormat, series: Path
) -> Dataset:
    depth_mm, row_mm, column_mm = volume.grid.spacing
    position = volume.affine @ [slice_index, 0, 0, 1] * [-1, -1, 1, 1]  # RAS to LPS
    name = (series.parent.name, series.name)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*name, str(number)])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*name])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[name[0]])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[*name, "frame"])
    dataset.PatientID = name[0]
    dataset.PatientName = name[0]
    dataset.Modality = "CT"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = number
    dataset.PatientPosition = "HFS" if head_first else "FFS"
    dataset.ImagePositionPatient = [_decimal(at) for at in position[:3]]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    dataset.SliceThickness = _decimal(depth_mm * 1.25)  # unreliable in the real data too: spacing is in the positions
    dataset.RescaleSlope = 1
    dataset.RescaleIntercept = pixels.intercept
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = volume.voxels.shape[1:]
    dataset.BitsAllocated = 16
    dataset.BitsStored = pixels.bits_stored
    dataset.HighBit = pixels.bits_stored - 1
    dataset.PixelRepresentation = int(pixels.signed)
    dataset.PixelData = pixels.encode(volume.voxels[slice_index]).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    return dataset


def _decimal(value: float) -> str:
    """Return a DICOM decimal string: at most 16 characters."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
