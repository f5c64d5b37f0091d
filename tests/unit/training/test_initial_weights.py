"""Weights of another task: the part that fits is taken where the rest was never trained, and refused otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.errors import AnatoBenchError
from anatobench.objectives.heads import CLASSIFIER, UNTRAINED, without_auxiliary
from anatobench.recipes import Recipe
from anatobench.system.array_files import safetensors_bytes
from anatobench.tasks import RATIC, multi_label_task
from anatobench.training.initial_weights import load_initial_weights

FINDINGS = multi_label_task("findings", "chest", ("calcification", "effusion"))
FRAMEWORKS = ("torch", "jax")


def engine_of(framework: str, seed: int) -> Engine:
    pytest.importorskip(framework)
    return load_engine(framework, ModelSpec("r3d_18", "tiny", FINDINGS, (16, 16, 16)), Recipe(seed=seed))


def of_another_task(engine: Engine) -> Arrays:
    """Return an export's weights in which every value is new and the classifier has the outputs of `RATIC`."""
    weights = {name: array + 1 for name, array in without_auxiliary(engine.weights()).items()}
    features = weights["fc.weight"].shape[1]
    weights["fc.weight"] = np.zeros((RATIC.logit_count, features), np.float32)
    weights["fc.bias"] = np.zeros(RATIC.logit_count, np.float32)
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_but_a_classifier_that_was_never_trained(framework: str, tmp_path: Path) -> None:
    engine, path = engine_of(framework, 0), tmp_path / "w.safetensors"
    own, given = engine.weights(), of_another_task(engine)
    path.write_bytes(safetensors_bytes(given, {CLASSIFIER: UNTRAINED}))
    load_initial_weights(path, engine)
    for name, array in engine.weights().items():
        expected = given[name] if name in given and not name.startswith("fc.") else own[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_trained_classifier_of_another_task_is_refused_in_one_sentence(framework: str, tmp_path: Path) -> None:
    engine, path = engine_of(framework, 0), tmp_path / "w.safetensors"
    own = engine.weights()
    path.write_bytes(safetensors_bytes(of_another_task(engine)))
    said = f"{path}: its classifier has {RATIC.logit_count} outputs, task findings has 2: begin with a run of the same"
    with pytest.raises(AnatoBenchError, match=re.escape(said)):
        load_initial_weights(path, engine)
    for name, array in engine.weights().items():
        np.testing.assert_array_equal(array, own[name], err_msg=name)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_untrained_classifier_of_the_same_outputs_is_taken_as_it_was_drawn(framework: str, tmp_path: Path) -> None:
    first, second, path = engine_of(framework, 1), engine_of(framework, 2), tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes(without_auxiliary(first.weights()), {CLASSIFIER: UNTRAINED}))
    load_initial_weights(path, second)
    np.testing.assert_array_equal(second.weights()["fc.weight"], first.weights()["fc.weight"])


def test_a_whole_state_is_named_as_what_it_is(tmp_path: Path) -> None:
    engine, path = engine_of("torch", 0), tmp_path / "state.safetensors"
    path.write_bytes(safetensors_bytes({f"model/{name}": array for name, array in engine.weights().items()}))
    with pytest.raises(AnatoBenchError, match=f"{path}: holds the whole state of a run, as `export --state` writes it"):
        load_initial_weights(path, engine)


def test_a_folder_of_other_things_is_not_called_damaged(tmp_path: Path) -> None:
    said = f"{tmp_path}: neither a run's folder (config.json is missing) nor a checkpoint's (state.json is missing)"
    with pytest.raises(AnatoBenchError, match=re.escape(said)):
        load_initial_weights(tmp_path, engine_of("torch", 0))
