"""Metrics against scikit-learn, the bootstrap against its definition."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from anatobench.errors import UsageError
from anatobench.evaluation.metrics import (
    RATES,
    auc_per_class,
    best_threshold,
    evaluate,
    roc_curve,
    weighted_roc_auc,
)
from anatobench.evaluation.predictions import ClassPredictions


def random_predictions(
    rng: np.random.Generator, rows: int = 200, classes: int = 4, missing: float = 0.1, patients: int | None = None
) -> ClassPredictions:
    """Scores rounded so that many tie, better than chance, with labels missing at random."""
    labels = (rng.random((rows, classes)) < 0.3).astype(np.float64)
    scores = np.round(np.clip(rng.normal(0.4 + 0.15 * labels, 0.2), 0, 1), 1)
    labels[rng.random(labels.shape) < missing] = np.nan
    ids = rng.integers(patients, size=rows) if patients else np.arange(rows)
    return ClassPredictions(tuple(f"c{i}" for i in range(classes)), scores, labels, tuple(f"p{i}" for i in ids))


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_sklearn_with_ties_and_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = (rng.random(120) < 0.4).astype(float), np.round(rng.random(120), 1)
    weights = np.concatenate([np.ones((1, 120), int), rng.integers(0, 4, size=(3, 120))])
    expected = [roc_auc_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_roc_auc(scores, labels, weights), expected, rtol=1e-12)


def test_auc_of_one_label_value_is_undefined() -> None:
    assert np.isnan(weighted_roc_auc(np.array([0.1, 0.2]), np.array([1.0, 1.0]), np.ones((1, 2)))).all()
    assert np.isnan(weighted_roc_auc(np.array([]), np.array([]), np.ones((1, 0)))).all()


@pytest.mark.parametrize("seed", range(5))
def test_roc_curve_equals_sklearn_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = (rng.random(120) < 0.4).astype(float), np.round(rng.random(120), 1)
    expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for rates, of_sklearn in zip(roc_curve(scores, labels), expected[:2], strict=True):
        np.testing.assert_allclose(rates, of_sklearn, rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_optimal_on_the_exact_roc_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(80) < 0.3).astype(float)
    scores = np.round(rng.normal(labels, 1.0), 1)
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for rule, quality in (("youden", tpr - fpr), ("closest_to_corner", -np.hypot(1 - tpr, fpr))):
        called = scores >= best_threshold(scores, labels, rule)
        reached_tpr, reached_fpr = called[labels == 1].mean(), called[labels == 0].mean()
        reached = reached_tpr - reached_fpr if rule == "youden" else -np.hypot(1 - reached_tpr, reached_fpr)
        assert reached == pytest.approx(quality.max(), abs=1e-12)


def test_the_two_rules_can_differ() -> None:
    # Points (FPR, TPR): (0, .5) with J = .5 at distance .5, and (.25, .7) with J = .45 at distance .39.
    labels = np.array([1] * 10 + [0] * 20, dtype=float)
    scores = np.array([0.9] * 5 + [0.5] * 2 + [0.1] * 3 + [0.5] * 5 + [0.1] * 15)
    assert best_threshold(scores, labels, "youden") == pytest.approx(0.7)
    assert best_threshold(scores, labels, "closest_to_corner") == pytest.approx(0.3)


def test_equally_good_thresholds_give_the_highest() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.8, 0.6, 0.4, 0.2])
    assert best_threshold(scores, labels, "youden") == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_computed_otherwise_call_the_same_cases(seed: int) -> None:
    """Whoever reads the logits from the CSV has another last digit; a threshold on a score would move its case."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(300) < 0.3).astype(float)
    logits = rng.normal(2 * labels - 1, 1.0).astype(np.float32).astype(float)
    scores, otherwise = -np.expm1(-np.logaddexp(0, logits)), 1 / (1 + np.exp(-logits))
    for rule in ("youden", "closest_to_corner"):
        threshold = best_threshold(scores, labels, rule)
        called = scores >= threshold
        assert np.array_equal(called, otherwise >= threshold)
        assert np.abs(scores - threshold).min() > 1e-9
        for slightly in (-1e-9, 1e-9):
            assert np.array_equal(called, scores >= threshold + slightly)


def test_thresholds_at_the_ends() -> None:
    labels = np.array([1.0, 0.0])
    assert best_threshold(np.array([0.5, np.nextafter(0.5, 0)]), labels, "youden") == 0.5, "no number lies between"
    assert best_threshold(np.array([0.4, 0.4]), labels, "youden") == 0.2, "all are called, so halfway to 0"
    assert best_threshold(np.array([0.0, 0.0]), labels, "youden") == 0.0


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="closest_to_corner, youden"):
        best_threshold(np.array([0.1]), np.array([1.0]), "best")


@pytest.mark.parametrize("rule", ["closest_to_corner", "youden"])
def test_rates_equal_sklearn_without_missing_labels(rule: str) -> None:
    predictions = random_predictions(np.random.default_rng(3))
    figures = evaluate(predictions, rule, replicates=10)
    for column, name in enumerate(predictions.class_names):
        known = ~np.isnan(predictions.labels[:, column])
        labels, scores = predictions.labels[known, column], predictions.probabilities[known, column]
        called = (scores >= figures["thresholds"][name]).astype(float)
        expected = {
            "auc": roc_auc_score(labels, scores),
            "sensitivity": recall_score(labels, called),
            "specificity": recall_score(labels, called, pos_label=0),
            "precision": precision_score(labels, called),
            "f1_weighted": f1_score(labels, called, average="weighted"),
        }
        for metric, value in expected.items():
            assert figures[metric][name] == pytest.approx(value, rel=1e-12), (metric, name)
    for metric in ("auc", *RATES):
        mean = np.mean([figures[metric][name] for name in predictions.class_names])
        assert figures[metric]["macro"] == pytest.approx(mean, rel=1e-12)
    macro, per_class = auc_per_class(predictions)
    assert {"macro": macro, **per_class} == figures["auc"]


def test_undefined_classes_are_named_with_the_reason_and_left_out_of_the_mean() -> None:
    predictions = random_predictions(np.random.default_rng(1), missing=0.0)
    predictions.labels[:, 0] = 0
    predictions.labels[:, 1] = np.nan
    predictions.labels[:, 2] = np.where(np.arange(200) % 2, np.nan, 1)
    figures = evaluate(predictions, replicates=20)
    assert figures["undefined"] == {"c0": "no positive", "c1": "no known label", "c2": "no negative"}
    assert figures["macro_classes"]["auc"] == 1
    for metric in ("auc", *RATES):
        assert [figures[metric][f"c{i}"] for i in range(3)] == [None] * 3
        assert [figures["ci95"][metric][f"c{i}"] for i in range(3)] == [None] * 3
        assert figures[metric]["macro"] == figures[metric]["c3"]
        assert figures["ci95"][metric]["macro"] == figures["ci95"][metric]["c3"]
    json.dumps(figures, allow_nan=False)


def test_thresholds_can_come_from_another_split() -> None:
    rng = np.random.default_rng(5)
    test, validation = random_predictions(rng), random_predictions(rng)
    validation.labels[:, 2] = 0
    figures = evaluate(test, threshold_predictions=validation, replicates=10)
    known = ~np.isnan(validation.labels[:, 0])
    expected = best_threshold(validation.probabilities[known, 0], validation.labels[known, 0], "closest_to_corner")
    assert figures["thresholds"]["c0"] == expected
    assert figures["thresholds"]["c2"] is None
    assert figures["sensitivity"]["c2"] is None
    assert figures["auc"]["c2"] is not None
    assert figures["undefined"] == {"c2": "no threshold: no positive in the split that chooses it"}
    assert figures["macro_classes"] == {"auc": 4, **dict.fromkeys(RATES, 3)}


def test_a_class_without_negatives_has_no_interval_even_with_a_threshold_from_elsewhere() -> None:
    rng = np.random.default_rng(6)
    test, validation = random_predictions(rng), random_predictions(rng)
    test.labels[:, 1] = 1
    figures = evaluate(test, threshold_predictions=validation, replicates=20)
    assert figures["thresholds"]["c1"] is not None
    for metric in ("auc", *RATES):
        assert figures[metric]["c1"] is None
        assert figures["ci95"][metric]["c1"] is None


def test_bootstrap_draws_patients_and_is_seeded() -> None:
    predictions = random_predictions(np.random.default_rng(2), patients=60)
    figures = evaluate(predictions, replicates=50, seed=7)
    patients, rows = np.unique(predictions.patient_ids, return_inverse=True)
    draws = np.random.default_rng(7).multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=50)
    expected: dict[str, list[float]] = {"auc": [], "sensitivity": []}
    for draw in draws:
        picked = np.repeat(np.arange(len(rows)), draw[rows])
        labels, scores = predictions.labels[picked, 1], predictions.probabilities[picked, 1]
        labels, scores = labels[~np.isnan(labels)], scores[~np.isnan(labels)]
        expected["auc"].append(roc_auc_score(labels, scores))
        expected["sensitivity"].append(recall_score(labels, scores >= figures["thresholds"]["c1"]))
    for metric, values in expected.items():
        np.testing.assert_allclose(figures["ci95"][metric]["c1"], np.quantile(values, (0.025, 0.975)), rtol=1e-12)
    assert evaluate(predictions, replicates=50, seed=7) == figures
    assert evaluate(predictions, replicates=50, seed=8)["ci95"] != figures["ci95"]


def test_intervals_cover_the_true_auc_about_as_often_as_they_say() -> None:
    """Normal scores one deviation apart have AUC Phi(1 / sqrt 2) = 0.7602; 95 % intervals of 200 samples."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        labels = np.repeat([0.0, 1.0], (60, 40))[:, None]
        scores = rng.normal(labels)
        predictions = ClassPredictions(("c",), scores, labels, tuple(map(str, range(100))))
        low, high = evaluate(predictions, replicates=200)["ci95"]["auc"]["c"]
        covered += low <= 0.76025 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_two_scans_of_a_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    single = random_predictions(rng, rows=100, classes=1, missing=0.0)
    alone = evaluate(single)["ci95"]["auc"]["c0"]
    quadruple = ClassPredictions(
        single.class_names,
        np.tile(single.probabilities, (4, 1)),
        np.tile(single.labels, (4, 1)),
        single.patient_ids * 4,
    )
    grouped = evaluate(quadruple)["ci95"]["auc"]["c0"]
    naive = ClassPredictions(
        quadruple.class_names, quadruple.probabilities, quadruple.labels, tuple(map(str, range(400)))
    )
    pretended = evaluate(naive)["ci95"]["auc"]["c0"]
    assert grouped == pytest.approx(alone, abs=1e-12)  # copies of a scan are no new evidence
    assert pretended[1] - pretended[0] < 0.7 * (alone[1] - alone[0])
