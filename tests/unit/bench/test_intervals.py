"""Bootstrap intervals: that they cover, and that pairing cancels what both sides share."""

from collections.abc import Callable

import numpy as np
import pytest

from anatobench.bench.intervals import Ratio, independent_ratio, median_interval, paired_ratio


def test_interval_holds_the_median_of_skewed_times() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = median_interval(rng.exponential(size=41))
        hits += low <= np.log(2) <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_cancels_what_slows_both() -> None:
    rng = np.random.default_rng(0)
    load = rng.uniform(1, 3, 40)
    ratio = paired_ratio(2.0 * load, 0.5 * load)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((4, 4, 4))
    apart = independent_ratio(2.0 * load, 0.5 * load)
    assert apart.value == pytest.approx(4)
    assert apart.high - apart.low > 0.5


@pytest.mark.parametrize("ratio_of", [paired_ratio, independent_ratio])
def test_the_ratios_interval_holds_the_truth(ratio_of: Callable[[np.ndarray, np.ndarray], Ratio]) -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = ratio_of(1.1 * rng.gamma(20, 1 / 20, 31), rng.gamma(20, 1 / 20, 31))
        hits += found.low <= 1.1 <= found.high
    assert 0.88 <= hits / 200 <= 1.0
