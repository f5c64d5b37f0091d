"""A kind of supervision that nobody knows, with a head, a teacher and two phases, from its registration to its report.

Nothing outside this file names it. What it needs is what `docs/extending.md` says: a plan, the terms in each framework,
a head, and their lines in the registries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from kept_checkpoints import newest_checkpoint
from stopped_runs import stopping_before
from tiny_store import SMALL_FINDINGS, write_store

import jax_impl.losses
import torch_ref.losses
from anatobench.cli.main import main
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.errors import UsageError
from anatobench.objectives.heads import CLASSIFIER, HEADS, Head
from anatobench.objectives.objective import Objective, Phase, Plan
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.parity.climb import TOLERANCES
from anatobench.parity.inputs import parity_batch, parity_recipe
from anatobench.parity.ladder import Ladder
from anatobench.recipes import FRAMEWORKS, Recipe, override
from anatobench.store.reader import Store
from anatobench.tasks import RATIC, Task

pytestmark = pytest.mark.usefixtures("shallow_models")

CROP = (8, 16, 16)


def toy(recipe: Recipe, task: Task) -> Plan:
    """Return an epoch of agreement with a teacher on where the scan is bright, then one of labels by the classifier
    alone."""
    return Plan(
        heads=(CLASSIFIER, "toy"),
        phases=(
            Phase(Objective("toy_bright", ("volume",), {"bright": 1.0, "agreement": 0.5}), teacher=0.9),
            Phase(Objective("toy_labels", ("volume", "targets"), {"labels": 2.0}), trained=(CLASSIFIER,)),
        ),
        judge="auc_macro",
    )


def torch_bright(task: Task, recipe: Recipe, view: Any, arrays: Any) -> dict[str, torch.Tensor]:
    probability = view.upsampled("toy").softmax(1)[:, 1]
    theirs = view.teacher.upsampled("toy").softmax(1)[:, 1]
    bright = (arrays["volume"] > 0).to(probability.dtype)
    return {
        "bright": (probability - bright).square().flatten(1).mean(1),
        "agreement": (probability - theirs).square().flatten(1).mean(1),
    }


def jax_bright(task: Task, recipe: Recipe, view: Any, arrays: Any) -> dict[str, jax.Array]:
    probability = jax.nn.softmax(view.upsampled("toy"), 1)[:, 1]
    theirs = jax.nn.softmax(view.teacher.upsampled("toy"), 1)[:, 1]
    bright = (arrays["volume"] > 0).astype(probability.dtype)
    return {
        "bright": ((probability - bright) ** 2).mean((1, 2, 3)),
        "agreement": ((probability - theirs) ** 2).mean((1, 2, 3)),
    }


def labels(task: Task, recipe: Recipe, view: Any, arrays: Any) -> dict[str, Any]:
    """Compare logits and labels, by operations that both frameworks' arrays know."""
    wanted = (arrays["targets"][:, :1] > 0) * 2.0 - 1.0
    return {"labels": ((view.logits - wanted) ** 2).mean(1)}


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "toy", toy)
    monkeypatch.setitem(HEADS, "toy", Head("auxiliary", lambda task: 2, "toy_logits"))
    for package, bright in ((torch_ref.losses, torch_bright), (jax_impl.losses, jax_bright)):
        monkeypatch.setitem(package.CASE_TERMS, "toy_bright", bright)
        monkeypatch.setitem(package.CASE_TERMS, "toy_labels", labels)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), SMALL_FINDINGS)


def arguments(store: Store, run: Path, framework: str) -> list[str]:
    return ["train", "--task", store.task.name, "--store", str(store.root), "--model", "r3d_18", "--framework",
            framework, "--out", str(run), "--set", "objective=toy", "--set", "batch_size=4", "--steps", "5",
            "--checkpoint-every", "1"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_trains_stops_goes_on_and_is_reported(
    framework: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(arguments(store, whole, framework)) == 0
    engine = type(load_engine(framework, ModelSpec("r3d_18", "tiny", RATIC, CROP), Recipe()))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", stopping_before(2, engine.train_step))
        assert main(arguments(store, stopped, framework)) == 130
    assert main(["train", "--resume", "--out", str(stopped)]) == 0

    ends = [newest_checkpoint(run) for run in (whole, stopped)]
    assert all(end is not None and set(end.trees) == {"model", "optimizer", "teacher"} for end in ends)
    left, right = ({f"{t}/{n}": a.tobytes() for t, tree in end.trees.items() for n, a in tree.items()} for end in ends)
    assert left == right

    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    assert [sorted(step.keys() & {"bright", "agreement", "labels"}) for step in steps] == [
        ["labels"] if step["epoch"] % 2 == 0 else ["agreement", "bright"] for step in steps
    ]
    assert {step["epoch"] for step in steps} >= {1, 2}

    assert main(["report", str(whole), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(word in page.lower() for word in ("bright", "agreement", "labels"))


@pytest.fixture
def engines(_registered: None) -> dict[str, Engine]:
    spec = ModelSpec("r3d_18", "tiny", RATIC, CROP, heads=plan_of(Recipe(objective="toy"), RATIC).heads)
    recipe = override(parity_recipe("float64", 0), ["objective=toy"])
    return {framework: load_engine(framework, spec, recipe) for framework in FRAMEWORKS}


@pytest.mark.slow
def test_both_frameworks_climb_the_ladder_with_it(engines: dict[str, Engine]) -> None:
    ladder = Ladder(engines["torch"], engines["jax"], 4, True, 3, 0, TOLERANCES["float64"])
    rungs = list(ladder.climb())
    assert [rung.name for rung in rungs if not rung.passed] == []
    names = {rung.name for rung in rungs}
    assert {"toy_logits", "phase 2: gradients", "4 steps: teacher's parameters", "4 steps: step"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_a_phase_does_not_train_keeps_value_moments_and_count(framework: str, engines: dict[str, Engine]) -> None:
    engine = engines[framework]
    spec = engine.spec
    for step in range(2):
        engine.train_step(parity_batch(spec, 3, 0, step), 1e-3, step, phase=0).fetch()
    before = engine.state()
    engine.train_step(parity_batch(spec, 3, 0, 2), 1e-3, 2, phase=1).fetch()
    after = engine.state()
    trained = {"fc.weight", "fc.bias"}
    for name in engine.parameter_shapes():
        moved = not np.array_equal(before["model"][name], after["model"][name])
        assert moved == (name in trained), name
        same = np.array_equal(before["optimizer"][f"exp_avg/{name}"], after["optimizer"][f"exp_avg/{name}"])
        assert same == (name not in trained), name
        assert int(after["optimizer"][f"step/{name}"]) == (3 if name in trained else 2)
    np.testing.assert_equal(after["teacher"], before["teacher"])
    engine.load_state(before)
    np.testing.assert_equal(engine.state(), before)


def test_without_its_line_a_kind_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="objective='toy': choose one of diagnosis"):
        plan_of(Recipe(objective="toy"), RATIC)
