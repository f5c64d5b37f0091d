"""One prepared case's voxels on disk, read crop by crop.

The format is safetensors (https://huggingface.co/docs/safetensors): an 8-byte little-endian header length, a JSON
header with dtype, shape and offsets of each tensor, then the raw bytes. It is public, holds no code, and a crop can
be read from it in place. Of a scan that fills only a part of the store's grid, the box that holds all but air is kept,
and the header's `__metadata__` says with `box_start` where in the grid it begins.

Crops are read in pieces of about 1 MiB, whole slices as they lie, and the crop is copied out of each piece while it is
in the processor's cache: a read costs more than the bytes it brings too many, and memory that was just asked for costs
as much as a copy. benchmarks/storage_formats.py measures it beside other ways and other formats. A memory map is the
fastest but kills the whole process with SIGBUS when a network file system fails or the file is cut short, where pread
raises an error that names the case.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from anatobench.errors import AnatoBenchError
from anatobench.system.json_text import parse_json
from anatobench.tasks import IGNORED_ORGAN, STORED_HU, Size

_DTYPES: Mapping[str, tuple[str, np.dtype]] = {"volume": ("I16", np.dtype("<i2")), "organs": ("U8", np.dtype("u1"))}
_HEADER_READ = 4096
"""Bytes read to get the header; that of a case is about 150."""
_BOX_START = "box_start"
_WORTH_A_BOX = 0.75
"""Of the grid: what fills more of it is kept whole."""
_AIR = STORED_HU[0]
"""With which a scan is filled up to the grid."""
_NO_ORGAN = 0
_PIECE = 1 << 20
"""Bytes read at once; more than a core's own cache holds would be written to memory and read back."""

_scratch = threading.local()
"""Each thread's own memory for a piece: a fresh one for every crop would be cleared by the system first."""


def encode_case(volume: np.ndarray, organs: np.ndarray | None) -> bytes:
    """Return the file's content: `volume` int16 [D, H, W] and, where the case has a mask, `organs` uint8 [D, H, W]."""
    box, metadata = _filled_box(volume, organs), None
    if math.prod(side.stop - side.start for side in box) < _WORTH_A_BOX * volume.size:
        metadata = {_BOX_START: ",".join(str(side.start) for side in box)}
    else:
        box = tuple(slice(0, n) for n in volume.shape)
    tensors = {"volume": np.ascontiguousarray(volume[box], dtype=np.int16)}
    if organs is not None:
        tensors["organs"] = np.ascontiguousarray(organs[box], dtype=np.uint8)
    return save(tensors, metadata)


def _filled_box(volume: np.ndarray, organs: np.ndarray | None) -> tuple[slice, ...]:
    """Return the smallest box outside of which there is nothing but air and no organ; one voxel if that is all."""
    filled = volume != _AIR
    if organs is not None:
        filled |= organs != _NO_ORGAN
    box = []
    for axis in range(3):
        found = np.flatnonzero(filled.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 1))
    return tuple(box)


def read_crop(path: Path, size: Size, start: Size, volume: np.ndarray, organs: np.ndarray) -> None:
    """Fill `volume` (int16) and `organs` (uint8), both C-contiguous [d, h, w], from the file's crop at `start`.

    `size` is the grid's, which the stored arrays fill or lie in. `organs` is filled with `IGNORED_ORGAN` where the file
    has none.
    Raises OSError if the file cannot be read and AnatoBenchError if it is not what `encode_case` wrote.
    """
    crop = volume.shape
    if any(s < 0 or s + c > full for s, c, full in zip(start, crop, size, strict=True)):
        raise AnatoBenchError(f"crop of size {crop} at {start} leaves the volume of size {size}")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        tensors = _read_header(descriptor, size)
        _read_tensor(descriptor, tensors["volume"], start, volume, _AIR)
        if "organs" in tensors:
            _read_tensor(descriptor, tensors["organs"], start, organs, _NO_ORGAN)
        else:
            organs.fill(IGNORED_ORGAN)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _StoredTensor:
    dtype: np.dtype
    offset: int
    """Bytes from the start of the file."""
    start: Size
    """Where its box begins in the grid."""
    size: Size
    """Of the box."""


def _read_header(descriptor: int, size: Size) -> dict[str, _StoredTensor]:
    """Return the file's tensors, each checked against the dtype that a case has and the grid that it lies in."""
    beginning = os.pread(descriptor, _HEADER_READ, 0)
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or not 2 <= length <= len(beginning) - 8:
        raise AnatoBenchError("the header is cut short or not that of a prepared case")
    try:
        header = parse_json(beginning[8 : 8 + length])
        start, box = _read_box(header, size)
        tensors = {}
        for name, entry in header.items():
            stored_dtype, dtype = _DTYPES[name]
            begin, end = entry["data_offsets"]
            if (entry["dtype"], tuple(entry["shape"])) != (stored_dtype, box):
                raise AnatoBenchError(f"{name} is {entry['dtype']} {entry['shape']}, not {stored_dtype} {list(box)}")
            if begin < 0 or end - begin != dtype.itemsize * math.prod(box):
                raise AnatoBenchError(f"{name} has impossible offsets {begin} to {end}")
            tensors[name] = _StoredTensor(dtype, 8 + length + begin, start, box)
        if "volume" not in tensors:
            raise AnatoBenchError("the header lists no volume")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnatoBenchError(f"the header is not that of a prepared case ({error!r})") from None
    return tensors


def _read_box(header: dict[str, Any], size: Size) -> tuple[Size, Size]:
    """Take `__metadata__` out of the header; where the stored box begins in the grid of `size`, and the box's size."""
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        return (0, 0, 0), size
    d, h, w = (int(number) for number in metadata[_BOX_START].split(","))
    depth, height, width = (int(n) for n in header["volume"]["shape"])
    start, box = (d, h, w), (depth, height, width)
    if any(s < 0 or n < 1 or s + n > full for s, n, full in zip(start, box, size, strict=True)):
        raise AnatoBenchError(f"its box of {list(box)} at {list(start)} leaves the grid of {list(size)}")
    return start, box


def _read_tensor(descriptor: int, tensor: _StoredTensor, start: Size, crop: np.ndarray, outside: int) -> None:
    """Fill `crop`, which begins at `start`: what lies in the tensor's box from there, the rest with `outside`."""
    lows = [max(first, box) for first, box in zip(start, tensor.start, strict=True)]
    ends = zip(start, crop.shape, tensor.start, tensor.size, strict=True)
    highs = [min(first + wide, box + extent) for first, wide, box, extent in ends]
    common = [high - low for low, high in zip(lows, highs, strict=True)]
    if any(extent < wide for extent, wide in zip(common, crop.shape, strict=True)):
        crop.fill(outside)
    if min(common) > 0:
        places = zip(lows, highs, start, strict=True)
        inside = crop[tuple(slice(low - first, high - first) for low, high, first in places)]
        d, h, w = (low - box for low, box in zip(lows, tensor.start, strict=True))
        _read_box_crop(descriptor, tensor, (d, h, w), inside)


def _read_box_crop(descriptor: int, tensor: _StoredTensor, start: Size, crop: np.ndarray) -> None:
    """Fill `crop`, which begins at `start` in the box: per piece of some slices one read from their first row on, then
    a copy of rows and columns."""
    _, height, width = tensor.size
    depth, crop_height, crop_width = crop.shape
    row_bytes = width * tensor.dtype.itemsize
    count = min(depth, max(1, _PIECE // (height * row_bytes)))
    memory = _piece_memory(count * height * row_bytes)
    slices = memory.view(tensor.dtype).reshape(count, height, width)[:, :crop_height, start[2] : start[2] + crop_width]
    for first in range(0, depth, count):
        wanted = min(count, depth - first)
        piece = memoryview(memory)[: ((wanted - 1) * height + crop_height) * row_bytes]
        row = (start[0] + first) * height + start[1]
        if os.preadv(descriptor, [piece], tensor.offset + row * row_bytes) != piece.nbytes:
            raise AnatoBenchError("the file is cut short")
        np.copyto(crop[first : first + wanted], slices[:wanted])


def _piece_memory(size: int) -> np.ndarray:
    """uint8 [size], this thread's own and used again."""
    memory: np.ndarray | None = getattr(_scratch, "memory", None)
    if memory is None or memory.nbytes < size:
        memory = _scratch.memory = np.empty(size, np.uint8)
    return memory[:size]
