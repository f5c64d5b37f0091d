"""Both frameworks' losses against formulas written out in float64 numpy, and at the extremes of float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch

import jax_impl.losses
import jax_impl.step
import torch_ref.losses
import torch_ref.step
from anatobench.objectives.registry import plan_of
from anatobench.recipes import Recipe
from anatobench.tasks import IGNORED_ORGAN, MISSING_TARGET, RATIC, TASKS, Task

RECIPE = Recipe(any_injury_weight=0.5, segmentation_weight=0.7, segmentation_loss="ce_dice")
Terms = dict[str, np.ndarray]


def view_of(logits: Any, seg_logits: Any) -> Any:
    """Return what the losses see of a model, given."""
    return SimpleNamespace(logits=logits, forms=frozenset(), upsampled=lambda head: seg_logits)


def weights_of(recipe: Recipe, task: Task) -> Mapping[str, float]:
    return plan_of(recipe, task).phases[0].objective.terms


def torch_terms(
    task: Task, recipe: Recipe, logits: np.ndarray, seg: np.ndarray | None, targets: np.ndarray, organs: np.ndarray
) -> tuple[Terms, np.ndarray]:
    x = torch.tensor(logits, requires_grad=True)
    view = view_of(x, None if seg is None else torch.tensor(seg))
    arrays = {"targets": torch.tensor(targets), "organs": torch.tensor(organs)}
    found = torch_ref.losses.CASE_TERMS["diagnosis"](task, recipe, view, arrays)
    total = torch_ref.step.weighted_sum(weights_of(recipe, task), found)
    (gradient,) = torch.autograd.grad(total.sum(), x)
    return {name: value.detach().numpy() for name, value in {**found, "total": total}.items()}, gradient.numpy()


@functools.cache
def jax_gradient(task: Task, recipe: Recipe) -> Any:
    """Compiled once for all tests of a task and a recipe."""

    def total(
        logits: jax.Array, seg: jax.Array | None, targets: jax.Array, organs: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        arrays = {"targets": targets, "organs": organs}
        found = jax_impl.losses.CASE_TERMS["diagnosis"](task, recipe, view_of(logits, seg), arrays)
        summed = jax_impl.step.weighted_sum(weights_of(recipe, task), found)
        return summed.sum(), {**found, "total": summed}

    return jax.jit(jax.grad(total, has_aux=True))


def jax_terms(
    task: Task, recipe: Recipe, logits: np.ndarray, seg: np.ndarray | None, targets: np.ndarray, organs: np.ndarray
) -> tuple[Terms, np.ndarray]:
    with jax.enable_x64(logits.dtype == np.float64):
        gradient, found = jax_gradient(task, recipe)(logits, seg, targets, organs)
        return {name: np.asarray(value) for name, value in found.items()}, np.asarray(gradient)


BOTH = pytest.mark.parametrize("terms_of", [torch_terms, jax_terms], ids=["torch", "jax"])
TermsOf = Callable[..., tuple[Terms, np.ndarray]]
NO_ORGANS = np.zeros((1, 1, 1, 1), np.uint8)


def sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 1 / (1 + np.exp(-x))
    return y


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exponential = np.exp(x - x.max(axis, keepdims=True))
    shares: np.ndarray = exponential / exponential.sum(axis, keepdims=True)
    return shares


@BOTH
def test_ratic_terms_equal_the_formulas(terms_of: TermsOf) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 11))
    targets = np.array(
        [[0, 0, 0, 0, 0], [1, 0, 2, 1, 0], [0, 1, 0, 2, 1], [-1, 0, 1, 0, 2], [-1, 0, 0, 0, 0], [0, 0, 1, -1, 2]],
        np.int8,
    )
    bowel, extravasation = sigmoid(logits[:, 0]), sigmoid(logits[:, 1])
    graded = [softmax(logits[:, start : start + 3], 1) for start in (2, 5, 8)]
    expected_classification, expected_any = [], []
    for case, (b, e, *grades) in enumerate(targets):
        binary = [
            0 if b < 0 else [-np.log(1 - bowel[case]), -2 * np.log(bowel[case])][b],
            0 if e < 0 else [-np.log(1 - extravasation[case]), -6 * np.log(extravasation[case])][e],
        ]
        many = [0 if g < 0 else -[1, 2, 4][g] * np.log(p[case, g]) for g, p in zip(grades, graded, strict=True)]
        expected_classification.append(np.mean(binary) + np.mean(many))
        healthy = (1 - bowel[case]) * (1 - extravasation[case]) * np.prod([p[case, 0] for p in graded])
        if max(targets[case]) > 0:
            expected_any.append(-6 * np.log(1 - healthy))
        else:
            expected_any.append(0 if min(targets[case]) == MISSING_TARGET else -np.log(healthy))
    found, _ = terms_of(RATIC, RECIPE, logits, None, targets, NO_ORGANS.repeat(6, 0))
    np.testing.assert_allclose(found["classification"], expected_classification, rtol=1e-12)
    np.testing.assert_allclose(found["any_injury"], expected_any, rtol=1e-12)
    np.testing.assert_array_equal(found["segmentation"], 0)
    total = np.add(expected_classification, 0.5 * np.array(expected_any))
    np.testing.assert_allclose(found["total"], total, rtol=1e-12)


@BOTH
def test_chest_loss_is_the_mean_over_labels_with_missing_ones_at_zero(terms_of: TermsOf) -> None:
    rng = np.random.default_rng(1)
    logits, targets = rng.standard_normal((2, 16)), rng.integers(0, 2, (2, 16)).astype(np.int8)
    targets[1, 3:5] = MISSING_TARGET
    probability = sigmoid(logits)
    losses = -np.where(targets == 1, np.log(probability), np.log(1 - probability)) * (targets >= 0)
    found, gradient = terms_of(TASKS["rad_chestct"], RECIPE, logits, None, targets, NO_ORGANS.repeat(2, 0))
    np.testing.assert_allclose(found["total"], losses.sum(1) / 16, rtol=1e-12)
    np.testing.assert_array_equal(gradient[1, 3:5], 0)
    np.testing.assert_array_equal(found["any_injury"], 0)


@BOTH
@pytest.mark.parametrize("healthy", [True, False])
@pytest.mark.parametrize("level", [-100.0, -50.0, 50.0, 100.0])
def test_any_injury_is_exact_in_float32_at_extreme_logits(terms_of: TermsOf, level: float, healthy: bool) -> None:
    """`level` > 0: sure of an injury. The reference sums five injury odds in float64, where nothing cancels."""
    task, recipe = RATIC, replace(RECIPE, any_injury_weight=1.0)
    logits = np.zeros((1, 11), np.float32)
    logits[0, :2] = level
    logits[0, [2, 5, 8]] = -level
    targets = np.full((1, 5), 0 if healthy else 1, np.int8)
    injured = np.array([level, level, *[level + np.log1p(np.exp(0.0))] * 3])
    if healthy:
        expected = np.logaddexp(0, injured).sum()
        expected_gradient = float(sigmoid(np.asarray(level)))
    elif level < 0:
        expected = -6 * np.log(np.exp(injured).sum())
        expected_gradient = -6 * np.exp(injured[0]) / np.exp(injured).sum()
    else:
        expected, expected_gradient = 0.0, 0.0
    found, with_any = terms_of(task, recipe, logits, None, targets, NO_ORGANS)
    _, without = terms_of(task, replace(recipe, any_injury_weight=0.0), logits, None, targets, NO_ORGANS)
    assert np.isfinite(with_any).all()
    assert np.isfinite(found["total"]).all()
    np.testing.assert_allclose(found["any_injury"][0], expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose((with_any - without)[0, 0], expected_gradient, rtol=1e-4, atol=1e-6)


@BOTH
@pytest.mark.parametrize("kind", ["ce", "dice", "ce_dice"])
def test_segmentation_losses_equal_the_formulas(terms_of: TermsOf, kind: str) -> None:
    rng = np.random.default_rng(2)
    seg = rng.standard_normal((3, 6, 3, 4, 5))
    organs = rng.integers(0, 5, (3, 3, 4, 5)).astype(np.uint8)  # organ 5 is nowhere
    organs[0, 0] = IGNORED_ORGAN
    organs[2] = IGNORED_ORGAN
    recipe = replace(RECIPE, segmentation_loss=kind)
    expected = []
    for logits, truth in zip(seg[:2], organs[:2], strict=True):
        probability = softmax(logits, 0)[:, truth != IGNORED_ORGAN]
        known = truth[truth != IGNORED_ORGAN]
        cross_entropy = -np.log(probability[known, np.arange(len(known))]).mean()
        dice = [
            (2 * probability[organ, known == organ].sum() + 1) / (probability[organ].sum() + (known == organ).sum() + 1)
            for organ in range(1, 6)
        ]
        parts = {"ce": cross_entropy, "dice": 1 - np.mean(dice)}
        expected.append(sum(parts[name] for name in kind.split("_")))
    logits, targets = np.zeros((3, 11)), np.zeros((3, 5), np.int8)
    found, _ = terms_of(RATIC, recipe, logits, seg, targets, organs)
    np.testing.assert_allclose(found["segmentation"], [*expected, 0.0], rtol=1e-12)
    np.testing.assert_allclose(
        found["total"], found["classification"] + 0.5 * found["any_injury"] + 0.7 * found["segmentation"], rtol=1e-12
    )
