"""Brier score and reliability against scikit-learn and their definitions."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from anatobench.evaluation.calibration import brier, reliability
from anatobench.evaluation.predictions import ClassPredictions


def drawn(seed: int = 0, rows: int = 400, missing: float = 0.2) -> ClassPredictions:
    """Draw labels by their own probabilities: a model that tells the truth."""
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, 3)) ** 2
    labels = (rng.random((rows, 3)) < scores).astype(np.float64)
    labels[rng.random(labels.shape) < missing] = np.nan
    return ClassPredictions(("a", "b", "c"), scores, labels, tuple(f"p{row // 2}" for row in range(rows)))


def test_brier_equals_sklearns_without_unknown_labels() -> None:
    predictions = drawn()
    found = brier(predictions)
    for column, name in enumerate(predictions.class_names):
        known = ~np.isnan(predictions.labels[:, column])
        truth, scores = predictions.labels[known, column], predictions.probabilities[known, column]
        assert found[name] == pytest.approx(brier_score_loss(truth, scores), rel=1e-12)
        everyone = np.full(len(truth), truth.mean())
        assert found["by_prevalence"][name] == pytest.approx(brier_score_loss(truth, everyone), rel=1e-12)
        low, high = found["ci95"][name]
        assert low < found[name] < high
    assert found["macro"] == pytest.approx(np.mean([found[name] for name in "abc"]))


def test_a_class_without_a_known_label_has_none() -> None:
    predictions = drawn()
    predictions.labels[:, 1] = np.nan
    found = brier(predictions, replicates=20)
    assert found["b"] is None
    assert found["ci95"]["b"] is None
    assert found["by_prevalence"]["b"] is None
    assert found["macro"] == pytest.approx((found["a"] + found["c"]) / 2)


def test_reliability_is_sklearns_by_quantiles() -> None:
    predictions = drawn(missing=0.0)
    truth, scores = predictions.labels[:, 0], predictions.probabilities[:, 0]
    found = reliability(scores, truth)
    observed, predicted = calibration_curve(truth, scores, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted)
    assert found.cases.tolist() == [40.0] * 10
    inside = (found.low <= found.predicted) & (found.predicted <= found.high)
    assert inside.sum() >= 8, "a model that tells the truth lies in its own intervals"


def test_a_boaster_lies_outside() -> None:
    predictions = drawn(missing=0.0)
    boasting = np.clip(predictions.probabilities[:, 0] * 2, 0, 1)
    found = reliability(boasting, predictions.labels[:, 0])
    assert (found.high < found.predicted).sum() >= 3


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_cases_make_few_bins(rows: int) -> None:
    found = reliability(np.linspace(0, 1, rows), np.ones(rows))
    assert len(found.cases) == rows
    assert found.cases.sum() == rows
    assert ((found.low >= 0) & (found.high <= 1 + 1e-12)).all()


def test_equal_scores_share_a_bin_and_no_case_is_lost() -> None:
    scores = np.array([0.1] * 35 + [0.9] * 5)
    labels = np.array([0.0] * 30 + [1.0] * 10)
    found = reliability(scores, labels)
    assert found.cases.tolist() == [35.0, 5.0]
    assert found.observed == pytest.approx([5 / 35, 1.0])
    labels[3] = np.nan
    assert reliability(scores, labels).cases.sum() == 39
