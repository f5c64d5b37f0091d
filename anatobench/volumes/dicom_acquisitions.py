"""Are the slices of one series one scan? Two acquisitions under one series UID are not, however evenly they lie."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from anatobench.errors import CaseError
from anatobench.volumes.continuity import jumps
from anatobench.volumes.dicom_slice import Slice
from anatobench.volumes.dicom_tags import ALWAYS_SEPARATING, CONTRAST, IDENTIFYING, NEVER_CHANGING, SEPARATING

FEWEST_WOVEN = 6
"""Slices; the numbers of fewer may alternate by chance."""
FEWEST_OF_A_PHASE = 3
"""Slices; fewer with a tag of their own are an odd header."""
LONGEST_NUMBER = 10
"""Characters; times in digits are longer, and are not rounded."""


def check_one_scan(folder: Path, slices: list[Slice]) -> list[str]:
    """Raise `CaseError` if slices of two acquisitions lie between each other, or one after the other with what no two
    parts of one scan differ in; a note if they differ in what several parts of one scan may."""
    notes = []
    for tag in IDENTIFYING:
        stated = {one.labels.get(tag, "") for one in slices} - {""}
        if 1 < len(stated) <= len(slices) // 2:  # one per slice is what some anonymisers write
            raise CaseError("several-scans", f"{folder}: its slices have {len(stated)} values of {tag}: separate them")
    _check_not_woven(folder, slices)
    for tag in SEPARATING:
        values = [_same_written(one.labels.get(tag, "")) for one in slices]
        kinds = Counter(values)
        changes = sum(before != after for before, after in pairwise(values))
        few = 1 < len(kinds) <= len(slices) // 3
        alternating = few and 2 * changes >= len(slices)  # a time may well return now and then
        if len(kinds) > 1 and changes >= len(kinds) and (tag in ALWAYS_SEPARATING or alternating):
            raise CaseError(
                "several-acquisitions",
                f"{folder}: slices of {tag} {_two_of(set(values))} lie between each other in one series: give each its "
                "own folder",
            )
        stated = set(values) - {""}
        in_parts = few and changes < len(kinds)
        large = min(kinds.values()) >= FEWEST_OF_A_PHASE
        if in_parts and ((tag in NEVER_CHANGING and len(stated) > 1) or (tag == CONTRAST and large)):
            raise CaseError(
                "several-acquisitions",
                f"{folder}: slices of {tag} {_two_of(stated if len(stated) > 1 else set(values))} follow each other in "
                "one series, which no single scan has: give each its own folder",
            )
        if in_parts and (tag in ALWAYS_SEPARATING or (len(kinds) == 2 and large)):
            notes.append(f"the series has {len(kinds)} values of {tag}, one part after the other")
    return notes


def check_no_second_scan(folder: Path, slices: list[Slice], hounsfield: np.ndarray) -> None:
    """Raise `CaseError` if the voxels int16 [D, H, W] of `slices` jump where the tags begin a new part: two phases or
    reconstructions that lie one after the other because the positions of one are wrong."""
    for jump in jumps(hounsfield):
        parts = slices[: jump.after + 1], slices[jump.after + 1 :]
        names = f"{parts[0][-1].path.name} and {parts[1][0].path.name}"
        for tag in SEPARATING:
            before, behind = ({one.labels.get(tag, "") for one in part} for part in parts)
            if not before & behind and len(before | behind) <= len(slices) // 3:
                told = _two_of({parts[0][-1].labels.get(tag, ""), parts[1][0].labels.get(tag, "")})
                raise CaseError(
                    "several-acquisitions",
                    f"{folder}: between {names} the voxels jump and {tag} changes ({told}): two scans, one after the "
                    "other, in one series: give each its own folder",
                )
        counted = [[one.number for one in part if one.number is not None] for part in parts]
        if all(_monotonic(part) for part in counted) and set(counted[0]) & set(counted[1]):
            raise CaseError(
                "several-acquisitions",
                f"{folder}: between {names} the voxels jump and InstanceNumber begins anew: two scans, one after the "
                "other, in one series: give each its own folder",
            )


def _same_written(value: str) -> str:
    """Return a value, alike for 120, 120.0 and 120.00."""
    try:
        return repr(float(value)) if len(value) < LONGEST_NUMBER else value
    except ValueError:
        return value.strip()


def _two_of(values: set[str]) -> str:
    return " and ".join(value[:40] or "(empty)" for value in sorted(values)[:2])


def _monotonic(numbers: list[float]) -> bool:
    steps = np.diff(numbers)
    return len(numbers) >= FEWEST_OF_A_PHASE and bool((steps > 0).all() or (steps < 0).all())


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
