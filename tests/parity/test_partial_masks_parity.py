"""Partly annotated masks climb the parity ladder to ten steps in float64, and faults of such a loss turn it red."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from seeded_faults import Plant, in_place_of
from shallow_transformers import make_transformers_shallow
from torch import Tensor

import torch_ref.losses.partial_masks as losses_module
from anatobench.cli.main import main
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.registry import plan_of
from anatobench.parity.climb import TOLERANCES
from anatobench.parity.inputs import parity_batch, parity_recipe
from anatobench.parity.ladder import Ladder
from anatobench.recipes import MODELS
from anatobench.tasks import RATIC, MaskClass, Size, multi_label_task
from torch_ref.losses import CASE_TERMS

NESTED = replace(
    RATIC,
    classes=(
        MaskClass("kidneys", ("kidney_left", "kidney_right")),
        MaskClass("kidney_left", ("kidney_left",)),
        MaskClass("liver", ("liver",)),
        MaskClass("upper organs", ("liver", "spleen")),
        MaskClass("bowel", ("bowel",)),
    ),
)
RECIPE = replace(parity_recipe("float64", seed=0), objective="partial_masks")


def spec_of(model: str, crop_size: Size) -> ModelSpec:
    return ModelSpec(model, "tiny", NESTED, crop_size, plan_of(RECIPE, NESTED).heads)


def climb(reference: Engine, candidate: Engine, steps: int) -> Ladder:
    return Ladder(reference, candidate, steps, True, 3, 0, TOLERANCES["float64"])


@pytest.fixture(scope="module")
def jax_engine() -> Engine:
    """Built once: its compiled functions serve every test."""
    return load_engine("jax", spec_of("r3d_18", (12, 20, 24)), RECIPE)


@pytest.mark.slow
def test_the_engines_agree_to_ten_steps(jax_engine: Engine) -> None:
    rungs = list(climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=10).climb())
    assert [rung.name for rung in rungs if not rung.passed] == []
    assert {"mask_logits", "losses", "gradients", "10 steps: parameters"} <= {rung.name for rung in rungs}
    assert max(rung.difference.error for rung in rungs if rung.name == "gradients") > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["swin3d_t", "mvit_v2_s"])
def test_the_engines_agree_on_transformers_gradients(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows them knows no objective and no backbone, and no block knows what the loss is."""
    make_transformers_shallow(monkeypatch)
    spec = spec_of(model, (8, 16, 20))
    engines = [load_engine(framework, spec, RECIPE) for framework in ("torch", "jax")]
    assert [rung.name for rung in climb(engines[0], engines[1], steps=0).climb() if not rung.passed] == []


def unannotated_as_absent(right: Any) -> Any:
    """Return the loss of every class, annotated or not."""
    return lambda task, recipe, view, arrays: right(
        task, recipe, view, {**arrays, "annotated": torch.ones_like(arrays["annotated"])}
    )


def dice_of_the_batch(right: Any) -> Any:
    def loss(logits: Tensor, truth: Tensor, seen: Tensor, smooth: float) -> Tensor:
        joined = (x.transpose(0, 1).flatten(1, 2)[None] for x in (logits, truth, seen))
        dice: Tensor = right(*joined, smooth)
        return dice.expand(len(logits), -1)

    return loss


def dice_by_slice(right: Any) -> Any:
    """Return the mean over slices of the slices' Dice, as some released code has it."""

    def loss(logits: Tensor, truth: Tensor, seen: Tensor, smooth: float) -> Tensor:
        slices = [x.unsqueeze(3).unbind(2) for x in (logits, truth, seen)]
        return torch.stack([right(*planes, smooth) for planes in zip(*slices, strict=True)]).mean(0)

    return loss


def softmax_in_place_of_sigmoid(logits: Tensor) -> Tensor:
    return torch.softmax(logits, 1)


def mean_over_all_classes(counted: Tensor, losses: Tensor) -> Tensor:
    return torch.where(counted, losses, 0.0).mean(1)


def exclusive_classes(right: Any) -> Any:
    """Return a voxel of the first class that has it alone: what is inside another is no part of it."""

    def masks(organs: Tensor, organ_sets: Any) -> Tensor:
        found: Tensor = right(organs, organ_sets)
        return found & (found.cumsum(1) == 1)

    return masks


def voxels_without_mask_as_background(right: Any) -> Any:
    return lambda logits, truth, seen: right(logits, truth, seen.any((2, 3, 4), keepdim=True).expand_as(seen))


class _Torch:
    """PyTorch with another sigmoid."""

    def __getattr__(self, name: str) -> Any:
        return softmax_in_place_of_sigmoid if name == "sigmoid" else getattr(torch, name)


def in_terms(make: Callable[[Any], Any]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(CASE_TERMS, "partial_masks", make(CASE_TERMS["partial_masks"]))

    return plant


FAULTS: dict[str, tuple[Plant, str]] = {
    "loss of what is not annotated": (in_terms(unannotated_as_absent), "losses"),
    "Dice of the batch": (in_place_of(losses_module, "mask_dice_loss", dice_of_the_batch), "losses"),
    "Dice by slice": (in_place_of(losses_module, "mask_dice_loss", dice_by_slice), "losses"),
    "softmax in place of sigmoid": (in_place_of(losses_module, "torch", lambda right: _Torch()), "losses"),
    "mean over all classes": (in_place_of(losses_module, "mean_over", lambda right: mean_over_all_classes), "losses"),
    "nested classes taken apart": (in_place_of(losses_module, "class_masks", exclusive_classes), "losses"),
    "voxels without mask as background": (
        in_place_of(losses_module, "mask_cross_entropy", voxels_without_mask_as_background),
        "losses",
    ),
    "Dice without gradient": (
        in_place_of(losses_module, "mask_dice_loss", lambda right: lambda *given: right(*given).detach()),
        "gradients",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_rung_red(fault: str, monkeypatch: pytest.MonkeyPatch, jax_engine: Engine) -> None:
    plant, first_red_rung = FAULTS[fault]
    plant(monkeypatch)
    rungs = climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=0).climb()
    assert next((rung.name for rung in rungs if not rung.passed), None) == first_red_rung


@pytest.fixture(params=["torch", "jax"])
def engine(request: pytest.FixtureRequest, jax_engine: Engine) -> Engine:
    return jax_engine if request.param == "jax" else load_engine("torch", jax_engine.spec, RECIPE)


def test_the_classifier_stays_and_the_rest_learns(engine: Engine) -> None:
    before = engine.state()
    for step in range(2):
        engine.train_step(parity_batch(engine.spec, 3, 0, step), 1e-3, step).fetch()
    after = engine.state()
    for name in engine.parameter_shapes():
        moved = (before["model"][name] != after["model"][name]).any()
        assert moved == (name not in ("fc.weight", "fc.bias")), name


def test_masks_of_overlapping_classes_are_predicted_each_by_itself(engine: Engine) -> None:
    batch = parity_batch(engine.spec, 3, 0, 0)
    logits = engine.inspect(batch, train=False, gradients=False).outputs["mask_logits"]
    masks = engine.segment(batch["volume"], "partial_masks")
    assert masks.shape == (3, 5, *engine.spec.crop_size)
    assert masks.dtype == "uint8"
    assert ((logits > 0) == (masks == 1)).all()
    assert masks.sum(1).max() > 1


@pytest.mark.parametrize("model", MODELS)
def test_of_every_backbone_the_classifier_alone_is_left_out(model: str) -> None:
    task = multi_label_task("many", "abdomen", tuple(f"finding {number}" for number in range(1009)))  # no other size
    spec = ModelSpec(model, "tiny", task, task.geometry("tiny").crop_size, plan_of(RECIPE, task).heads)
    shapes = load_engine("torch", spec, RECIPE).parameter_shapes()
    (phase,) = plan_of(RECIPE, task).of_model(model, shapes).phases
    kept = {name for name in shapes if not phase.trains(name)}
    assert kept == {name for name, shape in shapes.items() if shape[0] == 1009}
    assert len(kept) == 2


@pytest.mark.slow
def test_the_command_climbs_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parity", "--objective", "partial_masks", "--steps", "0", "--crop", "8,16,16", "--json"]
    assert main([*words, "--backward"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["objective"], figures["passed"]) == ("partial_masks", True)
    assert figures["max_rel_error"]["mask_logits"] is not None
    assert figures["max_rel_error"]["seg_logits"] is None
