"""What a study's means, intervals and tests are made of: runs whose AUC is known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anatobench.experiments.auc_results import compared
from anatobench.experiments.auc_samples import Samples, difference, mean_row, mean_sample
from anatobench.experiments.auc_study import AucStudy
from anatobench.experiments.grid import Cell

STUDY = AucStudy(models=("r3d_18",), seeds=3)
NAMES = ("bowel", "liver")
REPLICATES = 200


def sample(bowel: float, liver: float, spread: float = 0.01) -> Samples:
    """Return a run; what it found of patients drawn anew is the same for every run, but for its own level."""
    noise = np.random.default_rng(0).normal(0, spread, (REPLICATES, 1))
    values = np.array([bowel, liver])
    return Samples(NAMES, values, values + noise)


def found(told: tuple[str, ...] = ()) -> dict[str, Any]:
    """Supervision gains 10 points for the liver in PyTorch, 8 in JAX, none for the bowel; each seed adds a level of its
    own, alike in all; JAX is 1 point above PyTorch without, the control 2 in the first seed alone."""
    samples: dict[Cell, Samples] = {}
    for cell in STUDY.cells:
        supervised = cell.condition.segmentation_weight > 0
        jax = cell.framework == "jax"
        shift = 0.003 * (cell.seed - 1) * jax  # which only widens the interval between frameworks
        liver = 0.60 + 0.01 * cell.seed + shift + (0.10 - 0.02 * jax if supervised else 0.02 * jax)
        bowel = 0.50 + 0.01 * cell.seed + 0.04 * (cell.nudged and cell.seed == 0)
        samples[cell] = sample(bowel, liver)
    return compared(STUDY, samples, told)


def row(rows: list[dict[str, Any]], **named: Any) -> dict[str, Any]:
    (one,) = (one for one in rows if all(one[name] == value for name, value in named.items()))
    return one


def test_gains_are_paired_by_seed_and_a_seed_counts_once() -> None:
    gains = found()["segmentation_gain"]
    assert row(gains, framework="torch")["mean"] == pytest.approx(0.05)  # of two classes one gains
    both = row(gains, framework="all")
    assert both["mean"] == pytest.approx((0.05 + 0.03) / 2)
    assert both["count"] == 3
    assert both["high"] - both["low"] == pytest.approx(0, abs=1e-9), "what a seed adds to both arms cancels out"


def test_what_the_whole_scan_tells_is_left_out() -> None:
    one = row(found(("liver",))["segmentation_gain"], framework="all")
    assert one["mean"] == pytest.approx(0.04)
    assert one["without_given_away"]["mean"] == pytest.approx(0)
    assert row(found(NAMES)["segmentation_gain"], framework="all")["without_given_away"] is None


def test_frameworks_and_control_are_compared_within_an_arm() -> None:
    record = found()
    assert row(record["framework_difference"], segmentation=True)["mean"] == pytest.approx(-0.01)
    without = row(record["framework_difference"], segmentation=False)
    assert without["mean"] == pytest.approx(0.01)
    assert without["equivalent"]
    control = row(record["control_difference"], segmentation=True)
    assert control["mean"] == pytest.approx(0.02 / 3)
    assert control["count"] == 3


def test_every_class_has_its_gain() -> None:
    gains = found()["class_gains"]
    assert [one["class"] for one in gains] == list(NAMES)
    assert row(gains, **{"class": "liver"})["mean"] == pytest.approx(0.08)
    assert row(gains, **{"class": "bowel"})["mean"] == pytest.approx(0, abs=1e-12)


def test_arms_are_told_with_their_distance_from_chance() -> None:
    record = found()
    arm = row(record["arms"], segmentation=False, framework="all")
    assert arm["mean"] == pytest.approx((0.51 + 0.62) / 2)
    low, high = arm["seeds_patients"]
    assert low < arm["mean"] < high
    assert high - low > 0.02, "the test patients are drawn anew, too"


def test_the_family_is_adjusted_as_a_whole() -> None:
    rows = found()["hypotheses"]
    assert [one["kind"] for one in rows] == ["equivalent", "equivalent", "gain", "above_chance"]
    assert all(one["p_holm"] >= one["p_value"] for one in rows)
    assert max(one["p_holm"] / one["p_value"] for one in rows if one["p_value"] > 0) > 1
    assert row(rows, kind="gain")["shown"]


def test_one_seed_has_no_interval_and_no_test() -> None:
    mean = mean_row({0: sample(0.5, 0.6)})
    assert (mean["low"], mean["seeds_patients"], mean["count"]) == (None, None, 1)


def test_a_class_that_a_replicate_leaves_undefined_is_left_out_of_its_mean() -> None:
    one = Samples(NAMES, np.array([0.5, 0.7]), np.array([[0.5, 0.7], [np.nan, 0.7], [np.nan, np.nan]]))
    assert one.means() == pytest.approx([0.6, 0.7, np.nan], nan_ok=True)
    assert one.means(("liver",)) == pytest.approx([0.7, 0.7, np.nan], nan_ok=True)
    both = mean_sample([one, one])
    assert both.values == pytest.approx([0.5, 0.7])
    assert not difference({0: one}, {1: one})
    assert difference({0: one}, {0: one})[0].mean() == 0
