"""What repeated timings say: bootstrap intervals of a median and of a ratio of medians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Of two medians, with its 95 % interval."""

    value: float
    low: float
    high: float


def median_interval(samples: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median of samples [repetitions], in their unit."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(samples, (RESAMPLES, len(samples))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def mean_interval(samples: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of samples [repetitions], in their unit: for what adds up, such as energy."""
    rng = np.random.default_rng(seed)
    low, high = np.quantile(rng.choice(samples, (RESAMPLES, len(samples))).mean(1), (0.025, 0.975))
    return float(low), float(high)


def paired_ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> Ratio:
    """Return the ratio of two things measured in the same rounds, each [rounds]: a round is drawn whole, so that what
    slowed both cancels."""
    rounds = np.array([numerators, denominators])
    drawn = np.random.default_rng(seed).integers(0, rounds.shape[1], (RESAMPLES, rounds.shape[1]))
    return _ratio(rounds[0], rounds[1], *np.median(rounds[:, drawn], axis=2))


def independent_ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> Ratio:
    """Return the ratio of what was measured in two separate runs, [repetitions] each, not always as many."""
    rng = np.random.default_rng(seed)
    medians = (np.median(rng.choice(s, (RESAMPLES, len(s))), axis=1) for s in (numerators, denominators))
    return _ratio(numerators, denominators, *medians)


def _ratio(
    numerators: np.ndarray, denominators: np.ndarray, drawn_numerators: np.ndarray, drawn_denominators: np.ndarray
) -> Ratio:
    low, high = np.quantile(drawn_numerators / drawn_denominators, (0.025, 0.975))
    return Ratio(float(np.median(numerators) / np.median(denominators)), float(low), float(high))
