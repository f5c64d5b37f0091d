"""Splits that are drawn: per patient, and the same whatever the order of the rows.

Patients are ordered by a hash of seed and id, so that neither a table's order nor a library's version matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from anatobench.datasets.case import Case


def draw(patients: Iterable[str], share: float, seed: int, purpose: str) -> frozenset[str]:
    """round(share * number) of the distinct patients. Draws for another `purpose` are independent."""
    distinct = sorted(set(patients), key=lambda patient: _rank(patient, seed, purpose))
    return frozenset(distinct[: round(share * len(distinct))])


def with_validation(splits: Mapping[str, str], share: float, seed: int) -> dict[str, str]:
    """Return `splits` (patient to split) with that share of the training patients moved to `validation`."""
    train = (patient for patient, split in splits.items() if split == "train")
    moved = draw(train, share, seed, "validation")
    return {patient: "validation" if patient in moved else split for patient, split in splits.items()}


def carve_validation(cases: Iterable[Case], share: float, seed: int) -> list[Case]:
    """Cases with that share of the training patients moved to `validation`."""
    cases = list(cases)
    train = {case.patient_id: case.split for case in cases if case.split == "train"}
    splits = with_validation(train, share, seed)
    return [replace(case, split=splits[case.patient_id]) if case.split == "train" else case for case in cases]


def _rank(patient: str, seed: int, purpose: str) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{purpose}/{seed}/{patient}".encode(), digest_size=16).digest(), patient
