"""What repeated runs say: intervals over seeds and patients, tests, and how many seeds a test takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

import numpy as np
from scipy import integrate, stats

from anatobench.errors import UsageError

SIGNIFICANCE = 0.05
"""Of the tests of equivalence."""
LEVEL = 0.95
"""Of every interval that is shown."""
MOST_SEEDS = 1000
Hypothesis = TypeVar("Hypothesis")


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


def interval_of(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of independent values and its interval; `UsageError` for none."""
    if not values:
        raise UsageError("statistics of no values")
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, None, None, count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half, count)


def interval_of_shares(values: Sequence[float]) -> Interval:
    """Return the same of values from 0 to 1, where their interval ends, too."""
    found = interval_of(values)
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def equivalence_of(differences: Sequence[float], margin: float) -> Equivalence:
    """Test whether paired differences have a mean within (-margin, margin)."""
    if len(differences) < 2:
        return Equivalence(margin, None, None)
    p_value = _p_value(margin - abs(float(np.mean(differences))), differences)
    return Equivalence(margin, p_value, p_value < SIGNIFICANCE)


def above(values: Sequence[float], limit: float) -> float | None:
    """Return the p value of a one-sided t test that the mean of independent values is above a limit; None for one."""
    return None if len(values) < 2 else _p_value(float(np.mean(values)) - limit, values)


def _p_value(distance: float, values: Sequence[float]) -> float:
    """Return that of a one-sided t test of values whose mean lies `distance` above what it is tested against."""
    error = float(stats.sem(values))
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, len(values) - 1))


def holm(p_values: Mapping[Hypothesis, float]) -> dict[Hypothesis, float]:
    """Return the p values adjusted for the whole family (Holm 1979), in the order given."""
    ranked = sorted(p_values, key=lambda name: p_values[name])
    multiplied = [min(1.0, (len(ranked) - rank) * p_values[name]) for rank, name in enumerate(ranked)]
    adjusted = dict(zip(ranked, accumulate(multiplied, max), strict=True))
    return {name: adjusted[name] for name in p_values}


def seeds_and_patients(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over seeds, both seeds and patients drawn with replacement.

    differences float64 [seeds, replicates]: of each seed, in replicates of the patients that are the same for all
    seeds (`evaluation.metrics.patient_draws`).
    """
    if differences.ndim != 2 or min(differences.shape) < 2:
        raise UsageError("differences of two seeds and two replicates at least")
    seeds, replicates = differences.shape
    drawn = np.random.default_rng(0).integers(0, seeds, (seeds, replicates))
    means = np.take_along_axis(differences, drawn, axis=0).mean(axis=0)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def equivalence_power(deviation: float, margin: float, seeds: int, alpha: float = 0.05) -> float:
    """Return the chance that two one-sided t tests (Schuirmann 1987) show equivalence where there is no difference.

    `deviation` is the standard deviation of one seed's paired difference. Given the sample's own deviation s, the test
    succeeds where |mean| < margin - t s / sqrt(n), and mean and s are independent; s^2 (n - 1) / deviation^2 is
    chi-squared, over which is integrated (Phillips 1990).
    """
    _check_power(deviation, margin, seeds, alpha)
    if deviation == 0:
        return 1.0
    freedom, root = seeds - 1, math.sqrt(seeds)
    quantile = float(stats.t.ppf(1 - alpha, freedom))
    largest = margin * root / (quantile * deviation)  # of s / deviation: beyond it no mean is near enough to 0

    def shown(ratio: float) -> float:
        room = margin * root / deviation - quantile * ratio
        density = stats.chi.pdf(ratio * math.sqrt(freedom), freedom) * math.sqrt(freedom)
        return float((2 * stats.norm.cdf(room) - 1) * density)

    # Almost all of the density lies within ten of its standard deviations around 1.
    reach = 10 / math.sqrt(2 * freedom)
    low, high = max(0.0, 1 - reach), min(largest, 1 + reach)
    return float(integrate.quad(shown, low, high, limit=200)[0]) if low < high else 0.0


def gain_power(deviation: float, gain: float, seeds: int, alpha: float = 0.05) -> float:
    """Return the chance that a one-sided t test shows a gain that is there; `deviation` is that of one seed's."""
    _check_power(deviation, gain, seeds, alpha)
    if deviation == 0:
        return 1.0
    quantile = float(stats.t.ppf(1 - alpha, seeds - 1))
    return float(stats.nct.sf(quantile, seeds - 1, gain / deviation * math.sqrt(seeds)))


def _check_power(deviation: float, size: float, seeds: int, alpha: float) -> None:
    if seeds < 2 or deviation < 0 or size <= 0 or not 0 < alpha < 0.5:
        raise UsageError(
            "power: at least 2 seeds, a deviation of 0 or more, a margin or gain above 0, alpha from 0 to 0.5"
        )


def fewest_seeds(chance: Callable[[int], float], power: float) -> int | None:
    """Return the fewest seeds with whose `chance` of showing what is there is so large; None if it takes more than
    `MOST_SEEDS`."""
    if not 0 < power < 1:
        raise UsageError(f"power {power}: between 0 and 1")
    return next((seeds for seeds in range(2, MOST_SEEDS + 1) if chance(seeds) >= power), None)
