"""Compressed pixel data before and after a decoder sees it: what keeps one busy for ever, and what none can read."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from anatobench.errors import CaseError
from anatobench.volumes.dicom_tags import value_of, whole

JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
CODESTREAM = b"jp2c"
CODESTREAM_SIZE = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and of its size, ITU-T T.800."""
ITEM_TAG = b"\xfe\xff\x00\xe0"
"""Begins the fragments of compressed pixel data."""
JPEG_SIGNATURE = b"\xff\xd8"
JPEG_LS_FRAME = 0xF7
"""Start-of-frame marker of ITU-T T.87."""
JPEG_PROCESSES = {
    0: "baseline JPEG",
    1: "extended JPEG",
    2: "progressive JPEG",
    3: "lossless JPEG",
    **{number: "hierarchical or arithmetic JPEG" for number in (5, 6, 7, 9, 10, 11, 13, 14, 15)},
}
"""By the number of the start-of-frame marker (ITU-T T.81, table B.1)."""
DECODED_PROCESSES = (0, 1, 2)
LOGGERS = ("pydicom", "pylibjpeg", "PIL", "nibabel", "nibabel.global")

for _name in LOGGERS:  # what they have to say is in the exception, and becomes one sentence
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


def check_frame(path: Path, dataset: Dataset, syntax: UID, size: tuple[int, int]) -> None:
    """Raise `CaseError` for pixel data that a decoder would walk for ever, take memory for or read as what it is not:
    JPEG 2000 boxes that lead nowhere, a frame of another size than the header's rows and columns `size`, compressed
    frames where the transfer syntax says there are none, and more words than pixels."""
    if not syntax.is_compressed:
        _check_native(path, dataset, size)
        return
    frame = _first_frame(dataset)
    if syntax in JPEG2000TransferSyntaxes and frame.startswith(JP2_SIGNATURE):
        frame = frame[_codestream_start(path, frame) :]
    stated = _stated_size(frame)
    if stated is not None and stated != size:
        raise CaseError(
            "truncated",
            f"{path}: its compressed frame is {stated[0]} x {stated[1]} pixels, its header says {size[0]} x {size[1]}: "
            "copy it again",
        )


def _check_native(path: Path, dataset: Dataset, size: tuple[int, int]) -> None:
    content = value_of(path, dataset, "PixelData")
    if not isinstance(content, bytes):
        return
    if content.startswith(ITEM_TAG):
        raise CaseError(
            "unsupported-pixels",
            f"{path}: its pixels are compressed, and its TransferSyntaxUID is missing or says they are not: "
            "decompress the series first",
        )
    expected = size[0] * size[1] * max(1, whole(path, dataset, "BitsAllocated", 16) // 8)
    if content[expected + 1 :].strip(b"\0"):  # zeros are padding to some length
        raise CaseError(
            "truncated",
            f"{path}: holds {len(content)} bytes of pixels, and its Rows, Columns and BitsAllocated say {expected}: "
            "one of them is wrong",
        )


def _codestream_start(path: Path, frame: bytes) -> int:
    """Return where the codestream in JP2 boxes begins; their end where there is none."""
    offset = len(JP2_SIGNATURE) + 4
    while offset < len(frame) and frame[offset + 4 : offset + 8] != CODESTREAM:
        length = int.from_bytes(frame[offset : offset + 4], "big")
        if length < 8:
            raise CaseError(
                "truncated", f"{path}: its JPEG 2000 box at byte {offset} has length {length}: copy it again"
            )
        offset += length
    return offset + 8


def _stated_size(frame: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG or JPEG 2000 frame says it has; None where it says nothing."""
    if frame.startswith(CODESTREAM_SIZE):
        width, height, left, top = (int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20))
        return height - top, width - left
    start = _start_of_frame(frame)
    if start is None:
        return None
    return int.from_bytes(frame[start + 5 : start + 7], "big"), int.from_bytes(frame[start + 7 : start + 9], "big")


def unknown_process(dataset: Dataset) -> str | None:
    """Return the JPEG process of a frame that no decoder here knows, whatever its transfer syntax says; None if it is
    one that should have been decoded, or no JPEG."""
    frame = _first_frame(dataset)
    start = _start_of_frame(frame)
    if start is None:
        return None
    if frame[start + 1] == JPEG_LS_FRAME:
        return "JPEG-LS"
    process, precision = frame[start + 1] - 0xC0, frame[start + 4]
    if process in DECODED_PROCESSES and precision == 8:
        return None
    return f"{precision}-bit {JPEG_PROCESSES[process]}"


def _start_of_frame(frame: bytes) -> int | None:
    """Return where a JPEG's start-of-frame marker is."""
    if not frame.startswith(JPEG_SIGNATURE):
        return None
    offset = len(JPEG_SIGNATURE)
    while offset + 9 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == JPEG_LS_FRAME or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return offset
        length = int.from_bytes(frame[offset + 2 : offset + 4], "big")
        if length < 2:
            return None
        offset += 2 + length
    return None


def _first_frame(dataset: Dataset) -> bytes:
    with suppress(Exception):  # what is no frame is the decoder's to complain of
        return next(generate_frames(dataset.PixelData, number_of_frames=1))
    return b""


@contextmanager
def decoder_streams_silent(syntax: UID) -> Iterator[None]:
    """While this context is open, what the RLE decoder prints of a broken fragment before it raises goes nowhere."""
    if syntax != RLELossless:
        yield
        return
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no such stream
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
