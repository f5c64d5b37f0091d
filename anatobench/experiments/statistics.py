"""What repeated runs say: intervals over seeds, and whether two programs are equivalent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from anatobench.errors import UsageError

SIGNIFICANCE = 0.05
"""Of the tests of equivalence."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's t interval."""

    mean: float
    low: float | None
    """None for a single seed, which has no interval."""
    high: float | None
    count: int


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests (Schuirmann 1987): is the mean difference within the margin on both sides?"""

    margin: float
    p_value: float | None
    """The larger of the two tests'; None for a single seed."""
    equivalent: bool | None
    """p below 0.05, that is, the 90 % interval lies within the margin. False means "not shown", not "different"."""


def interval_of(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of independent values and its interval; `UsageError` for none."""
    if not values:
        raise UsageError("statistics of no values")
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, None, None, count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * _standard_error(values)
    return Interval(mean, mean - half, mean + half, count)


def interval_of_shares(values: Sequence[float]) -> Interval:
    """Return the same of values from 0 to 1, where their interval ends, too."""
    found = interval_of(values)
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def equivalence_of(differences: Sequence[float], margin: float) -> Equivalence:
    """Test whether paired differences have a mean within (-margin, margin)."""
    count = len(differences)
    if count < 2:
        return Equivalence(margin, None, None)
    mean, error = float(np.mean(differences)), _standard_error(differences)
    if error == 0:
        p_value = 0.0 if abs(mean) < margin else 1.0
    else:
        p_value = float(stats.t.sf((margin - abs(mean)) / error, count - 1))
    return Equivalence(margin, p_value, p_value < SIGNIFICANCE)


def above(values: Sequence[float], limit: float) -> float | None:
    """Return the p value of a one-sided t test that the mean of independent values is above a limit; None for one."""
    if len(values) < 2:
        return None
    distance, error = float(np.mean(values)) - limit, _standard_error(values)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, len(values) - 1))


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
