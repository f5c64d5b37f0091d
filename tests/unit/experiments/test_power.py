"""Power against simulation, Holm against its definition, and an interval that widens with both kinds of chance."""

from __future__ import annotations

import numpy as np
import pytest

from anatobench.experiments.statistics import (
    above,
    equivalence_of,
    equivalence_power,
    fewest_seeds,
    gain_power,
    holm,
    seeds_and_patients,
)


@pytest.mark.parametrize(("deviation", "seeds"), [(0.01, 4), (0.02, 6), (0.03, 8), (0.03, 25)])
def test_power_is_the_share_of_studies_that_show_it(deviation: float, seeds: int) -> None:
    rng = np.random.default_rng(0)
    studies = rng.normal(0, deviation, (3000, seeds))
    shown = np.mean([bool(equivalence_of(list(study), 0.02).equivalent) for study in studies])
    assert equivalence_power(deviation, 0.02, seeds) == pytest.approx(shown, abs=0.03)


def test_the_fewest_seeds_that_suffice() -> None:
    def needed(deviation: float) -> int | None:
        return fewest_seeds(lambda seeds: equivalence_power(deviation, 0.02, seeds), 0.8)

    seeds = needed(0.03)
    assert seeds is not None
    assert equivalence_power(0.03, 0.02, seeds) >= 0.8 > equivalence_power(0.03, 0.02, seeds - 1)
    assert needed(0.0) == 2
    assert needed(1.0) is None
    more = needed(0.04)
    assert more is not None
    assert more > seeds


@pytest.mark.parametrize(("deviation", "seeds"), [(0.02, 3), (0.04, 6), (0.04, 20)])
def test_the_power_to_show_a_gain_is_the_share_of_studies_that_do(deviation: float, seeds: int) -> None:
    rng = np.random.default_rng(0)
    studies = rng.normal(0.02, deviation, (4000, seeds))
    shown = np.mean([(p := above(list(study), 0.0)) is not None and p < 0.05 for study in studies])
    assert gain_power(deviation, 0.02, seeds) == pytest.approx(shown, abs=0.03)


def test_holm_keeps_the_order_and_never_falls() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(holm({"a": 0.9, "b": 0.8})) == ["a", "b"]
    assert holm({"a": 0.9, "b": 0.8})["b"] == 1.0


def test_the_interval_holds_the_chance_of_seeds_and_of_patients() -> None:
    rng = np.random.default_rng(1)
    of_seeds, of_patients = rng.normal(0, 1, (8, 1)), rng.normal(0, 1, (1, 4000))

    def width(differences: np.ndarray) -> float:
        low, high = seeds_and_patients(differences)
        return high - low

    everything = np.ones((8, 4000))
    seeds_alone, patients_alone = width(of_seeds * everything), width(of_patients * everything)
    assert seeds_alone > 0.5
    assert patients_alone == pytest.approx(2 * 1.96, rel=0.05)  # the same patients for every seed: no mean removes it
    assert width(of_seeds + of_patients) == pytest.approx(np.hypot(seeds_alone, patients_alone), rel=0.1)
