"""A scan or mask on disk, whatever its format, told by what it is rather than by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from anatobench.errors import AnatoBenchError, CaseError
from anatobench.system.time_limit import reading_time_limited
from anatobench.volumes.continuity import PLAIN_JUMP, jumps
from anatobench.volumes.dicom import read_dicom_series
from anatobench.volumes.dicom_tags import is_dicom_file
from anatobench.volumes.hounsfield import OVERRIDE, judge_hounsfield
from anatobench.volumes.medmnist3d_npz import read_medmnist3d_volume
from anatobench.volumes.nifti import read_nifti_affine, read_nifti_mask, read_nifti_volume
from anatobench.volumes.rad_chestct_npz import is_npz_file, read_rad_chestct_npz
from anatobench.volumes.volume import HeaderOverride, Mask, Volume

MOST_NAMED = 5
"""Places at which a scan's slices do not go on."""


def read_volume(path: Path, header: HeaderOverride | None = None, rescale: str = "auto") -> Volume:
    """Read a scan: a folder holds a DICOM series, a file is RAD-ChestCT's NPZ or NIfTI.

    `header` replaces what a NIfTI file says about itself (CT-RATE's originals). The voxels must look like HU
    (hounsfield.py) unless `rescale` is `hu`; `raw` and `hu` also say that no other reading of the bits is tried.
    Raises `CaseError` for bad input, whatever is bad about it.
    """
    path = Path(path)
    with reading_errors_named(path):
        volume = _read(path, header, trusted=rescale != "auto")
        volume = _continuous(path, volume)
        if rescale == "hu":
            return volume
        against, lacks_air = judge_hounsfield(volume.voxels)
        if against is not None:
            raise CaseError("not-hounsfield", f"{path}: these are no HU: {against}: {OVERRIDE}")
        if lacks_air:
            note = "nothing in it is as light as air or lung: taken for a crop inside the body"
            return replace(volume, notes=(*volume.notes, note))
        return volume


def read_member(path: Path, member: str) -> Volume:
    """Read one volume of a file that holds many, as it is: its values need not be HU. Raises `CaseError`."""
    with reading_errors_named(path):
        _check_regular(path)
        return read_medmnist3d_volume(path, member)


def _read(path: Path, header: HeaderOverride | None, trusted: bool) -> Volume:
    if not path.exists():
        raise CaseError("missing", f"{path}: no such scan")
    if path.is_dir():
        return read_dicom_series(path, trusted)
    _check_regular(path)
    if header is not None:
        return read_nifti_volume(path, header, trusted)
    if is_npz_file(path):
        return read_rad_chestct_npz(path)
    if is_dicom_file(path):
        raise CaseError("single-dicom", f"{path}: one DICOM file is one slice: give the folder of the series")
    return read_nifti_volume(path, trusted=trusted)


def _continuous(path: Path, volume: Volume) -> Volume:
    """Raise `CaseError` if the scan begins anew somewhere along the body; with a note if its slices only jump."""
    found = [jump for jump in jumps(volume.voxels) if jump.times >= PLAIN_JUMP]
    for jump in found:
        if jump.repeats:
            raise CaseError(
                "several-scans",
                f"{path}: behind slice {jump.after + 1} from above the voxels jump and show the same anatomy once "
                "more: two scans, one after the other, in one: separate them",
            )
    if not found:
        return volume
    places = ", ".join(str(jump.after + 1) for jump in found[:MOST_NAMED])
    note = (
        f"behind slice {places} from above the voxels jump, {max(jump.times for jump in found):.0f} times as far as "
        "beside it: is it several scans, one after the other?"
    )
    return replace(volume, notes=(*volume.notes, note))


def _check_regular(path: Path) -> None:
    """Raise `CaseError` for a pipe, socket or device: reading one may never end."""
    if not path.is_file():
        raise CaseError("not-a-file", f"{path}: is neither a regular file nor a folder")


@contextmanager
def reading_errors_named(path: Path) -> Iterator[None]:
    """Whatever goes wrong in here while a scan or mask is read, except an interrupt, is a `CaseError` with its path;
    also that it takes too long.

    Decoders raise what they like: one written in Rust even something that is no `Exception`.
    """
    try:
        with reading_time_limited(path):
            yield
    except (AnatoBenchError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise CaseError("missing", f"{error.filename or path}: is missing") from error
    except OSError as error:
        raise CaseError(
            "unreadable", f"{error.filename or path}: cannot be read ({error.strerror or error})"
        ) from error
    except MemoryError as error:
        raise CaseError("too-large", f"{path}: takes more memory than there is") from error
    except BaseException as error:
        told = " ".join(str(error).split())[:200]
        raise CaseError("unreadable", f"{path}: cannot be read ({type(error).__name__}: {told})") from error


def own_affine(path: Path) -> np.ndarray | None:
    """Return how the voxels of a NIfTI scan lie in its file, float64 [4, 4] (`read_nifti_affine`); None for formats
    that have no such axes, whose scans are written as they are read."""
    if path.is_dir() or is_npz_file(path):
        return None
    return read_nifti_affine(path)


def read_mask(path: Path) -> Mask:
    """Read an organ mask (NIfTI). Raises `CaseError` for bad input, whatever is bad about it."""
    path = Path(path)
    with reading_errors_named(path):
        if path.exists():
            _check_regular(path)
        return read_nifti_mask(path)
