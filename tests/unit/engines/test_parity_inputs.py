"""The parity batch has every case it promises; the comparison is as strict as it says."""

from __future__ import annotations

import numpy as np
import pytest
from exit_status import exit_status

from anatobench.engine import ModelSpec
from anatobench.parity.comparison import INCOMPARABLE, difference_of_norms, exact_difference, largest_difference
from anatobench.parity.inputs import parity_batch, perturbed_weights
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, TASKS


@pytest.mark.parametrize("task", TASKS)
def test_batches_hold_every_kind_of_case(task: str) -> None:
    spec = ModelSpec("r3d_18", "tiny", TASKS[task], (16, 24, 24))
    batches = [parity_batch(spec, 3, seed=0, step=step) for step in range(10)]
    first = batches[0]
    assert first.digest() == parity_batch(spec, 3, seed=0, step=0).digest()
    assert first.digest() != batches[1].digest()
    assert (first["organs"][-1] == IGNORED_ORGAN).all()
    assert set(np.unique(first["organs"][:2])) == {*range(spec.task.segmentation_classes), IGNORED_ORGAN}
    low, high = spec.task.window
    assert first["volume"].min() < low < high < first["volume"].max()
    assert (first["targets"][0] == 0).all()
    assert (batches[1]["targets"][0] == MISSING_TARGET).sum() == 1
    for index, group in enumerate(spec.task.groups):
        seen = {int(batch["targets"][case, index]) for batch in batches for case in range(3)}
        assert seen >= set(range(len(group.grades)))


def test_no_perturbed_weight_is_constant() -> None:
    weights = {
        "a.bias": np.zeros(4, np.float32),
        "a.running_var": np.ones(4, np.float32),
        "a.weight": np.arange(3.0, dtype=np.float32),
    }
    perturbed = perturbed_weights(weights, seed=0)
    assert perturbed["a.bias"].std() > 0
    assert (perturbed["a.running_var"] > 0).all()
    assert perturbed["a.running_var"].std() > 0
    np.testing.assert_array_equal(perturbed["a.weight"], weights["a.weight"])


def test_error_is_relative_to_each_arrays_own_size_above_the_floor() -> None:
    reference = {"large": np.array([100.0, 1.0]), "small": np.array([0.1]), "nothing": np.array([0.0])}
    found = largest_difference(reference, {**reference, "small": np.array([0.1001])})
    assert found.worst == "small"
    assert found.error == pytest.approx(1e-3)
    found = largest_difference(reference, {**reference, "nothing": np.array([1e-14])})
    assert found.error == pytest.approx(1e-12)


@pytest.mark.parametrize("other", [{}, {"a": np.zeros(3)}, {"a": np.array([np.nan, 0])}, {"b": np.zeros(2)}])
def test_what_cannot_be_compared_is_never_equal(other: dict[str, np.ndarray]) -> None:
    reference = {"a": np.zeros(2)}
    assert largest_difference(reference, other).error == INCOMPARABLE
    assert exact_difference(reference, other).error == INCOMPARABLE
    assert exact_difference(reference, {"a": np.array([0.0, -0.0])}).error == INCOMPARABLE


def test_wrong_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["parity", "--steps", "-1"]) == 2
    assert "--steps" in capsys.readouterr().err


def test_the_norm_forgives_one_element_and_sees_a_lost_array() -> None:
    generator = np.random.default_rng(0)
    reference = {"a": generator.standard_normal(10_000), "b": generator.standard_normal(10)}
    flipped = {"a": reference["a"], "b": reference["b"].copy()}
    flipped["b"][0] += 0.1
    found = difference_of_norms(reference, flipped)
    assert found.error == pytest.approx(0.1 / np.sqrt(sum((v**2).sum() for v in reference.values())))
    assert found.worst == "b"
    assert largest_difference(reference, flipped).error > 20 * found.error
    assert difference_of_norms(reference, {**reference, "b": np.zeros(10)}).error > 1e-2
    assert difference_of_norms(reference, {"a": reference["a"]}).error == INCOMPARABLE
    assert difference_of_norms(reference, {**reference, "b": np.full(10, np.nan)}).error == INCOMPARABLE
