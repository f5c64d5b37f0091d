"""What the contract promises, of both engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torchvision.models.video import r3d_18

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.parity.inputs import parity_batch, perturbed_weights
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC

SPEC = ModelSpec("r3d_18", "tiny", RATIC, crop_size=(16, 24, 16))
RECIPE = Recipe(seed=3, clip_norm=0.5)
BATCHES = [parity_batch(SPEC, 3, seed=0, step=step) for step in range(4)]
FRAMEWORKS = ("torch", "jax")


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    """Return one of each framework; a test that trains them resets them first."""
    return {framework: load_engine(framework, SPEC, RECIPE) for framework in FRAMEWORKS}


@pytest.fixture(scope="module")
def initial(engines: dict[str, Engine]) -> Arrays:
    return perturbed_weights(engines["torch"].weights(), seed=0)


def reset(engine: Engine, weights: Arrays) -> None:
    engine.load_weights(weights)
    engine.load_state({"optimizer": {name: np.zeros_like(a) for name, a in engine.state()["optimizer"].items()}})


def train(engine: Engine, steps: range) -> list[float]:
    return [engine.train_step(BATCHES[step], 1e-3, step).fetch().loss for step in steps]


def state(engine: Engine) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in {**engine.weights(), **engine.state()["optimizer"]}.items()}


def test_full_size_has_torchvisions_names_and_shapes() -> None:
    """FACTS: 33,147,794 parameters with 18 classes; here 11 and the head's 512 x 6 + 6."""
    spec = ModelSpec("r3d_18", "full", RATIC, (160, 176, 192))
    weights = {framework: load_engine(framework, spec, RECIPE).weights() for framework in FRAMEWORKS}
    shapes = {framework: {n: a.shape for n, a in found.items()} for framework, found in weights.items()}
    assert shapes["torch"] == shapes["jax"]
    theirs = {n: tuple(t.shape) for n, t in r3d_18(num_classes=11).state_dict().items() if t.ndim}
    theirs |= {"stem.0.weight": (64, 1, 2, 2, 2), "segmentation_head.weight": (6, 512, 1, 1, 1)}
    assert shapes["torch"] == theirs | {"segmentation_head.bias": (6,)}
    parameters = sum(a.size for n, a in weights["jax"].items() if "running" not in n)
    assert parameters == 33_147_794 - 7 * 513 + 512 * 6 + 6
    for name, ours in weights["jax"].items():  # initial weights are equal in distribution
        reference = weights["torch"][name]
        if reference.std() == 0:
            np.testing.assert_array_equal(ours, reference)
        else:
            error = 6 / np.sqrt(ours.size)
            assert ours.std() == pytest.approx(reference.std(), rel=max(error, 1e-3) if ours.size > 50 else 1.0), name
            assert abs(ours.mean()) <= error * reference.std(), name
            # A normal and a uniform of the same deviation differ in their fourth moment: 3 and 1.8.
            if ours.size > 1000:
                kurtosis = [((a - a.mean()) ** 4).mean() / a.var() ** 2 for a in (ours, reference)]
                assert kurtosis[0] == pytest.approx(kurtosis[1], rel=0.25), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_initial_weights_follow_the_seed_alone(framework: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_engine(framework, SPEC, RECIPE).weights()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = load_engine(framework, SPEC, replace(RECIPE, precision="fp64")).weights()
    other = load_engine(framework, SPEC, replace(RECIPE, seed=4)).weights()
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], strict=False)
    assert not np.array_equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_is_the_same_to_the_bit_and_resumes_from_files(
    framework: str, engines: dict[str, Engine], initial: Arrays, tmp_path: Path
) -> None:
    engine = engines[framework]
    reset(engine, initial)
    train(engine, range(2))
    save_file(engine.weights(), tmp_path / "model.safetensors")
    save_file(engine.state()["optimizer"], tmp_path / "optimizer.safetensors")
    losses = train(engine, range(2, 4))
    uninterrupted = state(engine)
    train(engine, range(1))  # somewhere else entirely
    engine.load_weights(load_file(tmp_path / "model.safetensors"))
    engine.load_state({"optimizer": load_file(tmp_path / "optimizer.safetensors")})
    assert train(engine, range(2, 4)) == losses
    assert state(engine) == uninterrupted


def test_a_run_goes_on_in_the_other_framework(engines: dict[str, Engine], initial: Arrays) -> None:
    there, back = engines["torch"], engines["jax"]
    reset(there, initial)
    train(there, range(2))
    back.load_weights(there.weights())
    back.load_state({"optimizer": there.state()["optimizer"]})
    assert state(back) == state(there)
    np.testing.assert_allclose(train(back, range(2, 4)), train(there, range(2, 4)), rtol=1e-3)
    assert int(back.state()["optimizer"]["step"]) == 4


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_inspecting_and_predicting_change_nothing(framework: str, engines: dict[str, Engine], initial: Arrays) -> None:
    engine = engines[framework]
    reset(engine, initial)
    before = state(engine)
    seen = engine.inspect(BATCHES[0])
    assert list(seen.activations) == ["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    assert seen.activations["layer4.0"].shape == (3, 96, 4, 6, 4)
    assert seen.gradients.keys() == {name for name in engine.weights() if "running" not in name}
    logits = engine.predict(BATCHES[0]["volume"])
    assert logits.dtype == np.float32
    assert logits.shape == (3, 11)
    organs = engine.segment(BATCHES[0]["volume"])
    assert organs.dtype == np.uint8
    evaluated = engine.inspect(BATCHES[0], train=False, gradients=False)
    assert evaluated.gradients == {}
    np.testing.assert_allclose(evaluated.outputs["logits"], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(organs, evaluated.outputs["seg_logits"].argmax(1))
    assert state(engine) == before


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_metrics_are_those_of_the_step(framework: str, engines: dict[str, Engine], initial: Arrays) -> None:
    engine = engines[framework]
    reset(engine, initial)
    seen = engine.inspect(BATCHES[0])
    metrics = engine.train_step(BATCHES[0], 1e-3, 0).fetch()
    assert list(seen.losses) == ["loss", *metrics.terms]
    assert {"loss": metrics.loss, **metrics.terms} == pytest.approx(seen.losses, rel=1e-5)
    terms = metrics.terms
    assert metrics.loss == pytest.approx(metrics.case_losses.mean(), rel=1e-6)
    assert metrics.loss == pytest.approx(
        terms["classification"] + RECIPE.any_injury_weight * terms["any_injury"] + terms["segmentation"], rel=1e-6
    )
    norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in seen.gradients.values()))
    assert metrics.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert norm > RECIPE.clip_norm


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """At an address that XLA's CPU backend shares instead of copying: a multiple of 64, where numpy promises 16."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_memory_given_to_the_engine_stays_the_callers(
    framework: str, engines: dict[str, Engine], initial: Arrays
) -> None:
    """JAX works on after returning, and may share aligned memory: overwriting it must not reach the step."""
    engine = engines[framework]
    reset(engine, initial)
    (expected,) = train(engine, range(1))
    after = state(engine)
    weights = {name: aligned_copy(array) for name, array in initial.items()}
    reset(engine, weights)
    batch = parity_batch(SPEC, 3, seed=0, step=0)
    batch = replace(batch, arrays={name: aligned_copy(array) for name, array in batch.arrays.items()})
    pending = engine.train_step(batch, 1e-3, 0)
    for array in batch.arrays.values():
        array[:] = 0
    for array in weights.values():
        array[:] = 7
    assert pending.fetch().loss == expected
    assert state(engine) == after


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_the_head_nothing_of_it_is_left(framework: str, initial: Arrays) -> None:
    engine = load_engine(framework, replace(SPEC, heads=("classifier",)), RECIPE)
    assert not [name for name in engine.weights() if "segmentation" in name]
    engine.load_weights(initial)  # the head's weights are dropped
    np.testing.assert_array_equal(engine.weights()["fc.weight"], initial["fc.weight"])
    with pytest.raises(UsageError, match="segmentation"):
        engine.segment(BATCHES[0]["volume"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_weights_that_do_not_fit_are_refused_by_name(
    framework: str, engines: dict[str, Engine], initial: Arrays
) -> None:
    engine = engines[framework]
    reset(engine, initial)
    before = state(engine)
    without = {name: array for name, array in initial.items() if name != "fc.bias"}
    for weights, message in (
        (without, "fc.bias is missing"),
        (initial | {"fc.extra": np.zeros(1)}, "fc.extra is unknown"),
        (initial | {"fc.bias": np.zeros(3, np.float32)}, r"fc.bias has shape \(3,\)"),
    ):
        with pytest.raises(AnatoBenchError, match=message):
            engine.load_weights(weights)
    with pytest.raises(AnatoBenchError, match=r"exp_avg/fc\.bias is missing"):
        engine.load_state(
            {"optimizer": {n: a for n, a in engine.state()["optimizer"].items() if n != "exp_avg/fc.bias"}}
        )
    assert state(engine) == before
    engine.load_weights(initial | {"stem.1.num_batches_tracked": np.asarray(5)})  # as torchvision's own files have it


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_bfloat16_follows_float32(framework: str, engines: dict[str, Engine], initial: Arrays) -> None:
    engine = load_engine(framework, SPEC, replace(RECIPE, precision="bf16"))
    engine.load_weights(initial)
    reset(engines[framework], initial)
    expected, found = engines[framework].predict(BATCHES[0]["volume"]), engine.predict(BATCHES[0]["volume"])
    assert 1e-5 < np.abs(found - expected).max() / np.abs(expected).max() < 0.05  # rounded, yet the same function


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_in_bfloat16_follows_float32_with_float32_weights(
    framework: str, engines: dict[str, Engine], initial: Arrays
) -> None:
    engine = load_engine(framework, SPEC, replace(RECIPE, precision="bf16"))
    for each in (engine, engines[framework]):
        reset(each, initial)
    # Two steps: AdamW turns rounding in small gradients into whole steps, and by the third the runs have parted.
    np.testing.assert_allclose(train(engine, range(2)), train(engines[framework], range(2)), rtol=0.02)
    assert {a.dtype for a in engine.weights().values()} == {np.dtype(np.float32)}


def test_an_engine_in_float64_does_not_change_the_next_ones_types(engines: dict[str, Engine], initial: Arrays) -> None:
    double = load_engine("jax", SPEC, replace(RECIPE, precision="fp64"))
    assert double.weights()["fc.weight"].dtype == np.float64
    reset(engines["jax"], initial)
    train(engines["jax"], range(1))
    assert engines["jax"].weights()["fc.weight"].dtype == np.float32
