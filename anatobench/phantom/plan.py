"""The randomness of a cohort: which stream belongs to which patient, and labels spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from anatobench.errors import UsageError
from anatobench.recipes import SIZES
from anatobench.tasks import get_task

INJURIES = ("typical", "moderate", "large")
WITH_INJURIES = ("ratic",)
"""The formats whose findings can be larger and more frequent than `typical`."""
TWO_SCANS_QUESTION, SOURCE_QUESTION = 50, 60
"""Of `CohortPlan.share`."""
TWO_SCANS_SHARE = 0.25
STRATA = 20
"""Of any so many patients in a row (0-19, 20-39, ...) each label has its share to within one."""


class Stream(IntEnum):
    """Independent random streams of one patient."""

    IDENTITY = 0
    BODY = 1
    FINDINGS = 2
    LABELS = 3
    SERIES = 100
    """Plus the number of the series."""


@dataclass(frozen=True)
class CohortPlan:
    """The arguments of a cohort."""

    format: str
    size: str
    seed: int
    cases: int
    """Patients."""
    injuries: str = "typical"
    """RATIC alone has others than `typical`: `moderate` are larger, stronger and more frequent, `large` even larger,
    with fewer look-alikes, for demonstrations."""
    unmasked: int = 0
    """The last so many patients get no organ masks: those are to be made."""
    partial: int = 0
    """So many sources, each of which drew the masks of organs of its own; 0: every mask has every organ."""

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise UsageError(f"--cases {self.cases}: write at least one")
        if self.size not in SIZES:
            raise UsageError(f"--size {self.size}: choose one of {', '.join(SIZES)}")
        if self.injuries not in INJURIES or (self.injuries != "typical" and self.format not in WITH_INJURIES):
            raise UsageError(
                f"--injuries {self.injuries}: choose one of {', '.join(INJURIES)}; only "
                f"{', '.join(WITH_INJURIES)} has others than typical"
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: choose a number from 0 to 4294967295")
        if not 0 <= self.unmasked <= self.cases:
            raise UsageError(
                f"--unmasked {self.unmasked}: choose a number from 0 to the {self.cases} patients there are"
            )
        if self.partial < 0:
            raise UsageError(f"--partial {self.partial}: choose a number of sources from 0")

    def source(self, index: int) -> int:
        """Return which of the sources a patient comes from; each has its share of the patients to within one."""
        return min(int(self.share(index, SOURCE_QUESTION) * self.partial), self.partial - 1)

    def drawn_by(self, source: int, organs: Sequence[str]) -> tuple[str, ...]:
        """Return which organs a source drew: a random part of them, one at least. Every organ was drawn by one."""
        rng = np.random.default_rng([self.seed, 2**33])
        while True:
            drawn = rng.random((self.partial, len(organs))) < 0.5
            if drawn.any(0).all() and drawn.any(1).all() and not (self.partial > 1 and drawn.all(1).any()):
                return tuple(organ for organ, kept in zip(organs, drawn[source], strict=True) if kept)

    def organs_of(self, index: int) -> tuple[str, ...] | None:
        """Return the organs whose masks a patient's scans get, none of unmasked ones; None for a mask of everything."""
        if index >= self.cases - self.unmasked:
            return ()
        return self.drawn_by(self.source(index), get_task(self.format).organs) if self.partial else None

    def scans(self, index: int) -> int:
        """Return how many scans a patient has, in formats where some have two."""
        return 2 if self.share(index, TWO_SCANS_QUESTION) < TWO_SCANS_SHARE else 1

    def rng(self, index: int, stream: int) -> np.random.Generator:
        """Return the random stream of a patient for one purpose."""
        return np.random.default_rng([self.seed, index, stream])

    def share(self, index: int, question: int) -> float:
        """Return a number in [0, 1) for a patient, even over every `STRATA` patients in a row, independent per
        question."""
        block, position = divmod(index, STRATA)
        rng = np.random.default_rng([self.seed, 2**32 + question, block])
        return float((rng.permutation(STRATA)[position] + rng.random(STRATA)[position]) / STRATA)

    def grade(self, index: int, question: int, shares: Sequence[float]) -> int:
        """Return a grade for a patient; `shares` are the grades' proportions and sum to 1."""
        return int(np.searchsorted(np.cumsum(shares)[:-1], self.share(index, question), side="right"))
