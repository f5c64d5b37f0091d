"""How many seeds a study needs, and what its runs show when seeds and patients are both drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import integrate, stats

from anatobench.errors import UsageError

MOST_SEEDS = 1000


def equivalence_power(deviation: float, margin: float, seeds: int, alpha: float = 0.05) -> float:
    """Return the chance that two one-sided t tests (Schuirmann 1987) show equivalence where there is no difference.

    `deviation` is the standard deviation of one seed's paired difference. Given the sample's own deviation s, the test
    succeeds where |mean| < margin - t s / sqrt(n), and mean and s are independent; s^2 (n - 1) / deviation^2 is
    chi-squared, over which is integrated (Phillips 1990).
    """
    if seeds < 2 or deviation < 0 or margin <= 0 or not 0 < alpha < 0.5:
        raise UsageError("power: at least 2 seeds, a deviation of 0 or more, a margin above 0, alpha from 0 to 0.5")
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
    if seeds < 2 or deviation < 0 or gain <= 0 or not 0 < alpha < 0.5:
        raise UsageError("power: at least 2 seeds, a deviation of 0 or more, a gain above 0, alpha from 0 to 0.5")
    if deviation == 0:
        return 1.0
    quantile = float(stats.t.ppf(1 - alpha, seeds - 1))
    return float(stats.nct.sf(quantile, seeds - 1, gain / deviation * math.sqrt(seeds)))


def fewest_seeds(chance: Callable[[int], float], power: float) -> int | None:
    """Return the fewest seeds with whose `chance` of showing what is there is so large; None if it takes more than
    `MOST_SEEDS`."""
    if not 0 < power < 1:
        raise UsageError(f"power {power}: between 0 and 1")
    return next((seeds for seeds in range(2, MOST_SEEDS + 1) if chance(seeds) >= power), None)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values adjusted for the whole family (Holm 1979), in the order given."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def seeds_and_patients(differences: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the mean over seeds, both seeds and patients drawn with replacement.

    differences float64 [seeds, replicates]: of each seed, in replicates of the patients that are the same for all
    seeds (`evaluation.metrics.patient_draws`).
    """
    if differences.ndim != 2 or min(differences.shape) < 2:
        raise UsageError("differences of two seeds and two replicates at least")
    seeds, replicates = differences.shape
    drawn = np.random.default_rng(seed).integers(0, seeds, (seeds, replicates))
    means = np.take_along_axis(differences, drawn, axis=0).mean(axis=0)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
