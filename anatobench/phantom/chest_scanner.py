"""How chests are scanned, and which findings a chest has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anatobench.phantom.body import Body, Finding
from anatobench.phantom.chest import chest_body
from anatobench.phantom.chest_findings import chest_findings
from anatobench.phantom.plan import CohortPlan, Stream
from anatobench.phantom.render import Scanner

LOWEST, HIGHEST = -152.0, 142.0
"""What every scan covers, in the body's mm."""
PREVALENCE = 0.3
COARSENESS = {"full": 1.0, "tiny": 1.7}
CARDIOMEGALY = "Cardiomegaly"


def draw_targets(plan: CohortPlan, index: int, labels: Sequence[str]) -> tuple[int, ...]:
    """0 or 1 per label for patient `index`."""
    return tuple(plan.grade(index, question, (1 - PREVALENCE, PREVALENCE)) for question in range(len(labels)))


def chest_patient(plan: CohortPlan, index: int, present: Mapping[str, int]) -> tuple[Body, tuple[Finding, ...]]:
    """Body and findings of patient `index`; `present` says 0 or 1 by CT-RATE's names."""
    chest = chest_body(plan.rng(index, Stream.BODY), bool(present.get(CARDIOMEGALY)))
    names = {name for name, value in present.items() if value}
    return chest.body, chest_findings(plan.rng(index, Stream.FINDINGS), chest, names, COARSENESS[plan.size])


def chest_scanner(rng: np.random.Generator, size: str) -> Scanner:
    """Return a scan of the chest: about 5 x 5 x 9 mm (tiny) or 1.4 x 1.4 x 2 mm (full) voxels."""
    if size == "tiny":
        pixels, in_plane, between = int(rng.choice((64, 68, 72))), rng.uniform(4.9, 5.3), rng.uniform(8.0, 10.0)
        noise = rng.uniform(12, 20)
    else:
        pixels, in_plane, between = 256, rng.uniform(1.28, 1.5), rng.uniform(1.0, 2.5)
        noise = rng.uniform(18, 32)
    slices = int(np.ceil((HIGHEST - LOWEST) / between)) + int(rng.integers(1, 4))
    x, y, z = (float(v) for v in rng.uniform(-5, 5, 3))
    isocentre = (float(rng.uniform(-20, 20)), float(rng.uniform(-40, 40)), float(rng.uniform(-900, 200)))
    spacing = (round(float(between), 2), round(float(in_plane), 3), round(float(in_plane), 3))
    return Scanner((slices, pixels, pixels), spacing, (x, y, (HIGHEST + LOWEST) / 2 + z), isocentre, float(noise))
