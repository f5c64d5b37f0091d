"""The difference of two runs on the same patients against its definition."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anatobench.errors import AnatoBenchError
from anatobench.evaluation.difference import auc_difference
from anatobench.evaluation.predictions import Predictions
from anatobench.tasks import multi_label_task

TASK = multi_label_task("own", "chest", ("nodule", "effusion"))


def made(seed: int, effect: float, cases: int = 150, patients: int = 100) -> Predictions:
    """Draw logits that know the targets by `effect`; targets and patients are the same for every seed."""
    fixed = np.random.default_rng(0)
    targets = (fixed.random((cases, 2)) < 0.4).astype(np.int8)
    owners = fixed.integers(patients, size=cases)
    hard = fixed.normal(size=(cases, 2))
    noise = np.random.default_rng(seed).normal(size=(cases, 2))
    logits = (effect * targets + hard + 0.2 * noise).astype(np.float32)
    names = tuple(f"case{index}" for index in range(cases))
    return Predictions(TASK, names, tuple(f"p{owner}" for owner in owners), logits, targets)


def test_the_difference_is_that_of_sklearns_areas() -> None:
    first, second = made(1, 0.5), made(2, 1.5)
    found = auc_difference(first, second, "none")
    expected = [
        roc_auc_score(first.targets[:, column], second.logits[:, column])
        - roc_auc_score(first.targets[:, column], first.logits[:, column])
        for column in range(2)
    ]
    assert [found["difference"][name] for name in ("nodule", "effusion")] == pytest.approx(expected, abs=1e-6)
    assert found["difference"]["macro"] == pytest.approx(np.mean(expected), abs=1e-6)
    low, high = found["ci95"]["macro"]
    assert 0 < low < found["difference"]["macro"] < high
    assert found["patients"] < found["rows"] == 150


def test_a_run_beside_itself_in_another_order_differs_by_nothing() -> None:
    run = made(1, 1.0)
    order = np.random.default_rng(3).permutation(len(run.case_ids))
    shuffled = Predictions(
        TASK,
        tuple(run.case_ids[row] for row in order),
        tuple(run.patient_ids[row] for row in order),
        run.logits[order],
        run.targets[order],
    )
    found = auc_difference(run, shuffled, "none", replicates=50)
    assert found["difference"]["macro"] == 0.0
    assert found["ci95"]["macro"] == [0.0, 0.0]


def test_drawing_the_same_patients_for_both_is_what_makes_it_narrow() -> None:
    first, second = made(1, 1.0), made(2, 1.1)
    paired = auc_difference(first, second, "none")["ci95"]["macro"]
    moved = tuple(f"p{int(name[1:]) + 1}" for name in second.patient_ids)
    with pytest.raises(AnatoBenchError, match="another label or patient"):
        auc_difference(first, replace(second, patient_ids=moved), "none")
    from anatobench.evaluation.metrics import evaluate
    from anatobench.evaluation.predictions import classify

    alone = evaluate(classify(first, "none"))["ci95"]["auc"]["macro"]
    assert paired[1] - paired[0] < 0.5 * (alone[1] - alone[0])


@pytest.mark.parametrize("rows", [slice(0, 149), slice(1, 150)])
def test_other_cases_are_refused(rows: slice) -> None:
    first, second = made(1, 1.0), made(2, 1.0)
    fewer = Predictions(
        TASK, second.case_ids[rows], second.patient_ids[rows], second.logits[rows], second.targets[rows]
    )
    with pytest.raises(AnatoBenchError, match=r"1 case\(s\) are judged in one of the runs alone"):
        auc_difference(first, fewer, "none")


def test_another_label_is_refused() -> None:
    first, second = made(1, 1.0), made(2, 1.0)
    targets = second.targets.copy()
    targets[7, 1] = 1 - targets[7, 1]
    with pytest.raises(AnatoBenchError, match="case7 has another label"):
        auc_difference(first, replace(second, targets=targets), "none")


def test_a_class_with_one_label_value_has_no_difference() -> None:
    first, second = made(1, 1.0), made(2, 1.0)
    targets = first.targets.copy()
    targets[:, 1] = 0
    found = auc_difference(replace(first, targets=targets), replace(second, targets=targets), "none", replicates=20)
    assert found["difference"]["effusion"] is None
    assert found["ci95"]["effusion"] is None
    assert found["difference"]["macro"] == found["difference"]["nodule"]
