"""How chests are scanned, and which findings a chest has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anatobench.phantom.body import Body, Finding
from anatobench.phantom.chest import chest_body
from anatobench.phantom.chest_findings import chest_findings
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner, Settings, draw_scanner

LOWEST, HIGHEST = -152.0, 142.0
"""What every scan covers, in the body's mm."""
SETTINGS = {
    "tiny": Settings(in_plane=(4.9, 5.3), between=(8, 10), noise=(12, 20), pixels=(64, 68, 72)),
    "full": Settings(in_plane=(1.28, 1.5), between=(1, 2.5), noise=(18, 32)),
}
PREVALENCE = 0.3
COARSENESS = {"full": 1.0, "tiny": 1.7}
CARDIOMEGALY = "Cardiomegaly"


def draw_targets(plan: CohortPlan, index: int, labels: Sequence[str]) -> tuple[int, ...]:
    """0 or 1 per label for patient `index`."""
    return tuple(plan.grade(index, question, (1 - PREVALENCE, PREVALENCE)) for question in range(len(labels)))


def chest_patient(plan: CohortPlan, index: int, signs: Sequence[str]) -> tuple[Body, tuple[Finding, ...]]:
    """Body and findings of patient `index`; `signs` is what each of the data set's labels means, by CT-RATE's names."""
    present = {sign for sign, value in zip(signs, draw_targets(plan, index, signs), strict=True) if value}
    chest = chest_body(plan.rng(index, Stream.BODY), CARDIOMEGALY in present)
    return chest.body, chest_findings(plan.rng(index, Stream.FINDINGS), chest, present, COARSENESS[plan.size])


def chest_scanner(rng: np.random.Generator, size: str) -> Scanner:
    """Return a scan of the chest."""
    return draw_scanner(rng, SETTINGS[size], LOWEST, HIGHEST, spare_slices=3, off_centre=5)
