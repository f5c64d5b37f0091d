"""Intervals and equivalence tests agree with known values, and say nothing where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from anatobench.errors import UsageError
from anatobench.experiments.statistics import equivalence_of, interval_of

DIFFERENCES = [0.004, -0.006, 0.011, 0.002, -0.001]


def test_the_interval_is_students() -> None:
    found = interval_of(DIFFERENCES)
    expected = stats.ttest_1samp(DIFFERENCES, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(0.002)
    assert found.count == 5


def test_equivalence_is_the_worse_of_two_one_sided_tests() -> None:
    found = equivalence_of(DIFFERENCES, 0.01)
    above = stats.ttest_1samp(DIFFERENCES, -0.01, alternative="greater").pvalue
    below = stats.ttest_1samp(DIFFERENCES, 0.01, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below))
    assert found.p_value is not None
    assert found.equivalent == (found.p_value < 0.05)


@pytest.mark.parametrize(("margin", "equivalent"), [(0.02, True), (0.005, False)])
def test_a_margin_decides_as_the_90_percent_interval_does(margin: float, equivalent: bool) -> None:
    inner = interval_of(DIFFERENCES, 0.9)
    assert inner.low is not None
    assert inner.high is not None
    assert (-margin < inner.low and inner.high < margin) is equivalent
    assert equivalence_of(DIFFERENCES, margin).equivalent is equivalent


def test_a_real_difference_is_never_called_equivalent() -> None:
    shifted = [difference + 0.05 for difference in DIFFERENCES]
    assert equivalence_of(shifted, 0.02).equivalent is False
    assert equivalence_of([-value for value in shifted], 0.02).equivalent is False


def test_noise_is_called_equivalent_in_five_percent_of_cases_at_the_margin() -> None:
    generator = np.random.default_rng(0)
    called = [equivalence_of(list(generator.normal(0.02, 0.005, 6)), 0.02).equivalent for _ in range(2000)]
    assert np.mean([bool(one) for one in called]) == pytest.approx(0.05, abs=0.015)


def test_one_seed_has_no_interval_and_no_test() -> None:
    assert interval_of([0.7]).low is None
    assert equivalence_of([0.0], 0.02).equivalent is None
    assert equivalence_of([0.0, 0.0], 0.02).equivalent is True
    with pytest.raises(UsageError):
        interval_of([])
