"""What a new kind of supervision lacks is one sentence that says what to add; nothing of it trains in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_engine import NumpyEngine
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.engine import ModelSpec, framework_module, load_engine
from anatobench.errors import UsageError
from anatobench.objectives.heads import CLASSIFIER, SEGMENTATION
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.recipes import FRAMEWORKS, Recipe, override
from anatobench.store.batches import training_batches
from anatobench.store.reader import Store
from anatobench.tasks import RATIC
from anatobench.training.judgement import Judgement
from anatobench.training.loop import TrainingData, train
from anatobench.training.run_folder import RunConfig, begin_run

CROP = (8, 16, 16)
OBJECTIVE = Objective("toy_terms", ("volume", "targets"), {"labels": 1.0})
PLAN = Plan((CLASSIFIER,), (Phase(OBJECTIVE),), "auc_macro")
RECIPE = override(parity_recipe("float64", 0), ["objective=toy"])
Terms = Callable[[Any, Any, Any, Any], dict[str, Any]]


def labels(task: Any, recipe: Any, view: Any, arrays: Any) -> dict[str, Any]:
    """Compare logits and labels, by operations that both frameworks' arrays know."""
    wanted = (arrays["targets"][:, :1] > 0) * 2.0 - 1.0
    return {"labels": ((view.logits - wanted) ** 2).mean(1)}


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan, Terms], None]:
    def registered(plan: Plan, terms: Terms) -> None:
        monkeypatch.setitem(KINDS, "toy", lambda recipe, task: plan)
        for framework in FRAMEWORKS:
            monkeypatch.setitem(framework_module(framework, "losses").CASE_TERMS, "toy_terms", terms)

    return registered


def spec() -> ModelSpec:
    return ModelSpec("r3d_18", "tiny", RATIC, CROP, plan_of(RECIPE, RATIC).heads)


def take_a_step(framework: str) -> None:
    engine = load_engine(framework, spec(), RECIPE)
    engine.train_step(parity_batch(spec(), 3, 0, 0), 1e-3, 0).fetch()


def train_by_command(store: Store, run: Path, framework: str) -> int:
    return main(["train", "--task", store.task.name, "--store", str(store.root), "--model", "r3d_18", "--framework",
                 framework, "--set", "objective=toy", "--set", "batch_size=4", "--out", str(run)])  # fmt: skip


UNREGISTERED = {
    "objective=toy: no head is called 'depth': add a line to `HEADS`": Plan(
        (CLASSIFIER, "depth"), (Phase(OBJECTIVE),), "auc_macro"
    ),
    "objective=toy: batches have no array 'reports': add a line to `TABLES`": Plan(
        (CLASSIFIER,), (Phase(OBJECTIVE), Phase(Objective("toy_terms", ("volume", "reports"), {"a": 1.0}))), "auc_macro"
    ),
    "objective=toy: its plan has no phase": Plan((CLASSIFIER,), (), "auc_macro"),
    "judge 'taste': add a line to `JUDGES`": Plan((CLASSIFIER,), (Phase(OBJECTIVE),), "taste"),
}


@pytest.mark.parametrize("sentence", UNREGISTERED)
def test_a_plan_of_what_nobody_registered_is_refused_before_a_folder_is_made(
    sentence: str, register: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(UNREGISTERED[sentence], labels)
    store = write_store(tmp_path / "store")
    assert train_by_command(store, tmp_path / "run", "torch") != 0
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_kind_without_terms_in_a_framework(
    framework: str, register: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(PLAN, labels)
    losses = framework_module(framework, "losses")
    monkeypatch.delitem(losses.CASE_TERMS, "toy_terms")
    store = write_store(tmp_path / "store")
    assert train_by_command(store, tmp_path / "run", framework) != 0
    said = capsys.readouterr().err
    assert "objective toy_terms has no terms in this framework" in said
    assert f"add a line to `CASE_TERMS` in {losses.__name__.replace('.', '/')}/__init__.py" in said
    assert not (tmp_path / "run").exists()


WRONG_TERMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    r"losses return others, and the plan names the term labels: return it": lambda labels: {"others": labels},
    r"the term labels has shape \[\] for a batch of 3 cases, and must have \[3\]": lambda labels: {
        "labels": labels.mean()
    },
    r"the term labels has shape \[3, 1\] for a batch of 3": lambda labels: {"labels": labels[:, None]},
    r"the term labels has shape \[\] for": lambda labels: {"labels": 0.0},
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("sentence", WRONG_TERMS)
def test_terms_that_are_none_of_a_case(sentence: str, framework: str, register: Any) -> None:
    register(PLAN, lambda *given: WRONG_TERMS[sentence](labels(*given)["labels"]))
    with pytest.raises(UsageError, match=f"objective toy_terms: .*{sentence}"):
        take_a_step(framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_teacher_that_no_phase_moves(framework: str, register: Any) -> None:
    register(PLAN, lambda *given: {"labels": given[2].teacher.logits.mean(1)})
    with pytest.raises(UsageError, match=r"toy_terms: its losses ask for a teacher, .* its momentum in `teacher`"):
        take_a_step(framework)


def torch_detached(task: Any, recipe: Any, view: Any, arrays: Any) -> dict[str, Any]:
    masks = view.coarse(SEGMENTATION).detach()
    return {"labels": labels(task, recipe, view, arrays)["labels"] + masks.mean((1, 2, 3, 4))}


def jax_detached(task: Any, recipe: Any, view: Any, arrays: Any) -> dict[str, Any]:
    import jax

    masks = jax.lax.stop_gradient(view.coarse(SEGMENTATION))
    return {"labels": labels(task, recipe, view, arrays)["labels"] + masks.mean((1, 2, 3, 4))}


@pytest.mark.slow
def test_a_head_without_gradient_is_decayed_and_counted_in_both_frameworks(
    register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Plan((CLASSIFIER, SEGMENTATION), (Phase(OBJECTIVE),), "auc_macro"), labels)
    weights, states = None, {}
    for framework, terms in (("torch", torch_detached), ("jax", jax_detached)):
        monkeypatch.setitem(framework_module(framework, "losses").CASE_TERMS, "toy_terms", terms)
        engine = load_engine(framework, spec(), RECIPE)
        weights = weights or perturbed_weights(engine.weights(), 0)
        engine.load_weights(weights)
        engine.train_step(parity_batch(spec(), 3, 0, 0), 1e-3, 0).fetch()
        states[framework] = engine.state()
        head = "segmentation_head.weight"
        decayed = weights[head] * (1 - 1e-3 * RECIPE.weight_decay)
        np.testing.assert_allclose(states[framework]["model"][head], decayed, rtol=1e-12)
    for tree in ("model", "optimizer"):
        ours, theirs = (states[framework][tree] for framework in FRAMEWORKS)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_allclose(array, theirs[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_judge_without_a_finite_score_chooses_no_checkpoint(
    score: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_store(tmp_path / "store")
    config = RunConfig(FINDINGS, "store", "torch", "r3d_18", "tiny", Recipe(epochs=3, batch_size=4))
    begin_run(tmp_path / "run", config, resume=False)
    scores = iter([0.5, score, score])

    def judge(check: Callable[[], None]) -> Judgement:
        found = next(scores)
        return Judgement("taste", "taste", found, {"of": {"a": found, "b": 1.0}})

    with training_batches(store, 0, 4) as batches:
        data = TrainingData(batches, 2, str, judge)
        reached = train(tmp_path / "run", config, NumpyEngine(config.spec, config.recipe), data)
    assert reached.best is not None
    assert (reached.best.step, reached.best.score) == (2, 0.5)
    assert f"taste {score:.4f}: no checkpoint is the best by it: look at the judge taste" in capsys.readouterr().err
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["taste"] for line in logged if line["kind"] == "evaluation"] == [0.5, None, None]
    assert [line["of"] for line in logged if line["kind"] == "evaluation"][1] == {"a": None, "b": 1.0}
