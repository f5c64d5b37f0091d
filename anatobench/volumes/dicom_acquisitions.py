"""Are the slices of one series one scan? Two acquisitions under one series UID are not, however evenly they lie."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.dicom_slice import Slice
from anatobench.volumes.dicom_tags import ALWAYS_SEPARATING, IDENTIFYING, SEPARATING

FEWEST_WOVEN = 6
"""Slices; the numbers of fewer may alternate by chance."""


def check_one_scan(folder: Path, slices: list[Slice]) -> list[str]:
    """Raise `CaseError` if slices of two acquisitions lie between each other; a note if one follows the other."""
    notes = []
    for tag in IDENTIFYING:
        stated = {one.labels.get(tag, "") for one in slices} - {""}
        if 1 < len(stated) <= len(slices) // 2:  # one per slice is what some anonymisers write
            raise CaseError("several-scans", f"{folder}: its slices have {len(stated)} values of {tag}: separate them")
    _check_not_woven(folder, slices)
    for tag in SEPARATING:
        values = [one.labels.get(tag, "") for one in slices]
        changes = sum(before != after for before, after in pairwise(values))
        kinds = len(set(values))
        alternating = kinds <= len(slices) // 3 and 2 * changes >= len(slices)  # a time may well return now and then
        if kinds > 1 and changes >= kinds and (tag in ALWAYS_SEPARATING or alternating):
            shown = " and ".join(sorted(set(values))[:2])
            raise CaseError(
                "several-acquisitions",
                f"{folder}: slices of {tag} {shown} lie between each other in one series: give each its own folder",
            )
        if 1 < kinds <= len(slices) // 3 and tag in ALWAYS_SEPARATING:
            notes.append(f"the series has {kinds} values of {tag}, one part after the other")
    return notes


def _check_not_woven(folder: Path, slices: list[Slice]) -> None:
    """Raise `CaseError` if every second slice goes on numbering where the one before the last stopped: two scans."""
    numbers = np.array([one.number if one.number is not None else np.nan for one in slices])
    if len(numbers) < FEWEST_WOVEN or np.isnan(numbers).any():
        return
    steps = np.diff(numbers)
    back = min(np.count_nonzero(steps <= 0), np.count_nonzero(steps >= 0))
    each = [np.diff(numbers[first::2]) for first in (0, 1)]
    if 3 * back >= len(steps) and all((part > 0).all() or (part < 0).all() for part in each):
        raise CaseError(
            "several-acquisitions",
            f"{folder}: by their InstanceNumber two runs of slices lie between each other: give each its own folder",
        )
