"""Logits to probabilities, labels and patients."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.predictions import (
    Predictions,
    class_labels,
    class_probabilities,
    classify,
    default_aggregation,
    output_names,
    read_predictions,
    write_predictions,
)
from anatobench.tasks import RATIC, TASKS

RNG = np.random.default_rng(0)


def ratic_predictions(patients: tuple[str, ...], targets: np.ndarray) -> Predictions:
    logits = RNG.normal(size=(len(patients), 11)).astype(np.float32)
    return Predictions(RATIC, tuple(f"case{i}" for i in range(len(patients))), patients, logits, targets)


def test_ratic_columns_are_kaggles_fourteen_in_order() -> None:
    logits = RNG.normal(size=(5, 11)) * 3
    columns = dict(zip(RATIC.class_names, class_probabilities(RATIC, logits).T, strict=True))
    assert len(columns) == 14
    np.testing.assert_allclose(columns["bowel_injury"], expit(logits[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(columns["bowel_healthy"], expit(-logits[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(columns["extravasation_injury"], expit(logits[:, 1]), rtol=1e-12)
    for start, organ in ((2, "kidney"), (5, "liver"), (8, "spleen")):
        expected = softmax(logits[:, start : start + 3], axis=1)
        for grade, name in enumerate(("healthy", "low", "high")):
            np.testing.assert_allclose(columns[f"{organ}_{name}"], expected[:, grade], rtol=1e-12)
    healthy = np.prod([columns[f"{group.name}_healthy"] for group in RATIC.groups], axis=0)
    np.testing.assert_allclose(columns["any_injury"], 1 - healthy, rtol=1e-10)


def test_any_injury_keeps_its_digits_when_all_is_well() -> None:
    logits = np.array([[-40.0, -40.0, 40.0, 0.0, 0.0, 40.0, 0.0, 0.0, 40.0, 0.0, 0.0]])
    any_injury = class_probabilities(RATIC, logits)[0, -1]
    assert any_injury == pytest.approx(8 * np.exp(-40.0), rel=1e-12, abs=0)  # 1 - product would be 0


def test_extreme_logits_stay_probabilities() -> None:
    for sign in (-1, 1):
        probabilities = class_probabilities(RATIC, sign * np.full((1, 11), 1e4) * np.arange(1, 12))
        assert np.all((probabilities >= 0) & (probabilities <= 1))


def test_multi_label_columns_are_sigmoids() -> None:
    logits = RNG.normal(size=(4, 18)) * 5
    np.testing.assert_allclose(class_probabilities(TASKS["ct_rate"], logits), expit(logits), rtol=1e-12)


def test_logits_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="11 per case"):
        class_probabilities(RATIC, np.zeros((2, 18)))


def test_labels_of_known_and_unknown_grades() -> None:
    labels = class_labels(RATIC, np.array([[0, 1, 2, 0, 1], [0, 0, 0, 0, 0], [0, -1, 0, 0, 0], [-1, 1, 0, 0, 0]]))
    columns = dict(zip(RATIC.class_names, labels.T, strict=True))
    np.testing.assert_array_equal(columns["kidney_high"], [1, 0, 0, 0])
    np.testing.assert_array_equal(columns["spleen_low"], [1, 0, 0, 0])
    np.testing.assert_array_equal(columns["bowel_healthy"], [1, 1, 1, np.nan])
    np.testing.assert_array_equal(columns["extravasation_injury"], [1, 0, np.nan, 1])
    # An injury is enough to know `any_injury`; to know that there is none, every group must be known.
    np.testing.assert_array_equal(columns["any_injury"], [1, 0, np.nan, 1])


def test_mean_and_max_over_a_patients_series() -> None:
    targets = np.array([[0, 0, 1, 0, 0]] * 2 + [[0, 0, 0, 0, 0]], dtype=np.int8)
    predictions = ratic_predictions(("b", "b", "a"), targets)
    per_case = class_probabilities(RATIC, predictions.logits)
    mean, largest = classify(predictions, "mean"), classify(predictions, "max")
    assert mean.patient_ids == largest.patient_ids == ("b", "a")
    np.testing.assert_allclose(mean.probabilities[0], per_case[:2].mean(axis=0), rtol=1e-15)
    np.testing.assert_array_equal(mean.probabilities[1], per_case[2])
    columns = dict(zip(RATIC.class_names, largest.probabilities.T, strict=True))
    assert columns["bowel_injury"][0] == per_case[:2, 1].max()
    assert columns["bowel_healthy"][0] == per_case[:2, 0].min()
    assert columns["any_injury"][0] == per_case[:2, -1].max()
    np.testing.assert_array_equal(mean.labels[:, list(RATIC.class_names).index("kidney_low")], [1, 0])
    assert classify(predictions, "none").patient_ids == ("b", "b", "a")


def test_a_label_known_in_one_series_serves_the_patient() -> None:
    targets = np.array([[-1, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=np.int8)
    labels = classify(ratic_predictions(("a", "a"), targets), "mean").labels
    assert labels[0, 1] == 1


def test_series_that_disagree_are_an_error_that_names_the_patient() -> None:
    targets = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=np.int8)
    with pytest.raises(AnatoBenchError, match=r"patient p7.*bowel"):
        classify(ratic_predictions(("p7", "p7"), targets), "mean")


def test_only_ratic_is_judged_per_patient_by_default() -> None:
    assert {name: default_aggregation(task) for name, task in TASKS.items()} == {
        "ratic": "mean",
        "ct_rate": "none",
        "rad_chestct": "none",
    }


def test_csv_holds_every_bit(tmp_path: Path) -> None:
    targets = np.array([[0, 1, 2, -1, 0], [1, 0, 0, 1, 2]], dtype=np.int8)
    predictions = ratic_predictions(("p1", "p2"), targets)
    write_predictions(tmp_path / "predictions.csv", predictions)
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header[:3] == ["case_id", "patient_id", "logit:bowel"]
    assert [f"logit:{name}" for name in output_names(RATIC)] == header[2:13]
    read = read_predictions(tmp_path / "predictions.csv", RATIC)
    assert (read.case_ids, read.patient_ids) == (predictions.case_ids, predictions.patient_ids)
    np.testing.assert_array_equal(read.logits, predictions.logits)
    np.testing.assert_array_equal(read.targets, predictions.targets)
    with pytest.raises(AnatoBenchError, match=r"predictions\.csv: not predictions of task ct_rate"):
        read_predictions(tmp_path / "predictions.csv", TASKS["ct_rate"])
