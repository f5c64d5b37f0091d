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

JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
CODESTREAM = b"jp2c"
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


def check_frame(path: Path, dataset: Dataset, syntax: UID) -> None:
    """Raise `CaseError` for a JPEG 2000 file whose boxes lead nowhere: pydicom's parser would walk them for ever."""
    if syntax not in JPEG2000TransferSyntaxes:
        return
    frame = _first_frame(dataset)
    if not frame.startswith(JP2_SIGNATURE):
        return
    offset = len(JP2_SIGNATURE) + 4
    while offset < len(frame) and frame[offset + 4 : offset + 8] != CODESTREAM:
        length = int.from_bytes(frame[offset : offset + 4], "big")
        if length < 8:
            raise CaseError(
                "truncated", f"{path}: its JPEG 2000 box at byte {offset} has length {length}: copy it again"
            )
        offset += length


def unknown_process(dataset: Dataset) -> str | None:
    """Return the JPEG process of a frame that no decoder here knows, whatever its transfer syntax says; None if it is
    one that should have been decoded, or no JPEG."""
    frame = _first_frame(dataset)
    if not frame.startswith(JPEG_SIGNATURE):
        return None
    offset = len(JPEG_SIGNATURE)
    while offset + 9 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        length = int.from_bytes(frame[offset + 2 : offset + 4], "big")
        if marker == JPEG_LS_FRAME:
            return "JPEG-LS"
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            process, precision = marker - 0xC0, frame[offset + 4]
            if process in DECODED_PROCESSES and precision == 8:
                return None
            return f"{precision}-bit {JPEG_PROCESSES[process]}"
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
