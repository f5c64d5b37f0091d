"""`parity --all` leaves nothing out, and one red gate makes all of it red."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import anatobench.cli.parity as command
import anatobench.parity.suite as suite
from anatobench.cli.main import main
from anatobench.engine import Engine, ModelSpec
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.parity.climb import SUMMARY_KINDS, Climb, climb, tolerances_for
from anatobench.parity.suite import ODD_CROP, climb_all, whole_ladder
from anatobench.recipes import MODELS, Recipe
from anatobench.system.worker_pool import WorkerDied
from anatobench.tasks import TASKS


def test_every_model_and_task_climbs_in_float64_at_two_sizes() -> None:
    climbs = {(c.model, c.task, c.crop_size, c.steps) for c in whole_ladder() if c.dtype == "float64"}
    sizes = ((None, 10), (ODD_CROP, 2))
    assert climbs == {(model, task, *size) for model in MODELS for task in TASKS for size in sizes}
    assert all(length % 8 for length in ODD_CROP)


def test_every_model_passes_at_full_size_and_has_its_bfloat16_reported() -> None:
    full = [c for c in whole_ladder() if c.size == "full"]
    assert {(c.model, c.spec.task.anatomy) for c in full} == {(m, a) for m in MODELS for a in ("chest", "abdomen")}
    assert {c.model for c in full if c.backward} == set(MODELS)
    assert {c.dtype for c in full} == {"float32"}
    assert {c.model for c in whole_ladder() if c.dtype == "bfloat16"} == set(MODELS)


@pytest.mark.parametrize("workers", [1, 4])
def test_every_climb_has_its_processes(workers: int) -> None:
    parts = list(suite._parts(whole_ladder(), workers))
    assert Counter(asked for part, *_ in parts for asked in part) == Counter(whole_ladder())
    assert all(1 <= count <= workers for _, count, _ in parts)
    alone = [asked for part, count, _ in parts for asked in part if count == 1]
    assert {asked for asked in whole_ladder() if asked.size == "full" and asked.backward} <= set(alone)


@pytest.mark.parametrize("words", [[], ["--compile", "auto"]])
def test_steps_are_compiled_if_that_is_asked_for(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And else on no device: `whole_ladder` would compile a step per climb on a GPU."""
    built: list[tuple[str, str]] = []

    def build(framework: str, spec: ModelSpec, recipe: Recipe) -> Engine:
        built.append((framework, recipe.compile))
        raise AnatoBenchError("enough")

    monkeypatch.setattr("anatobench.parity.climb.load_engine", build)
    assert main(["parity", "--steps", "1", *words]) == 1
    assert built == [("torch", "auto" if words else "false")]
    assert {asked.compile for asked in whole_ladder()} == {"false"}


def test_gates() -> None:
    assert tolerances_for("r3d_18", "float64").gradients == 1e-9
    assert tolerances_for("swin3d_t", "float32").gradients == 1e-4
    assert tolerances_for("r3d_18", "float32").gradients is None
    assert tolerances_for("r3d_18", "float32").whole_gradient == 2e-3
    assert tolerances_for("mvit_v2_s", "bfloat16").forward is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "vgg"},
        {"steps": -1},
        {"batch_size": 0},
        {"crop_size": (0, 4, 4)},
        {"dtype": "int8"},
        {"compile": "yes"},
    ],
)
def test_impossible_climbs_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Climb(**{"model": "r3d_18", "task": "ratic", **wrong})


@pytest.mark.slow
def test_the_figures_name_what_was_climbed() -> None:
    figures = climb(Climb("r3d_18", "ratic", "float32", steps=0, crop_size=(16, 16, 16)))
    assert figures["passed"]
    assert figures["crop_size"] == [16, 16, 16]
    assert figures["peak_memory_bytes"] > 2**27
    assert 0 < figures["max_rel_error"]["logits"] < 1e-4
    assert 0 < figures["max_rel_error"]["whole_gradient"] < 2e-3
    assert json.dumps(figures)


def test_a_worker_that_dies_or_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Climb("swin3d_t", "ct_rate", size="full")
    for outcome, message in ((WorkerDied(-9), "swin3d_t on ct_rate.*-9"), ("no jax here", "no jax here")):

        def pool(*_: Any, outcome: Any = outcome, **__: Any) -> Iterator[tuple[Climb, Any]]:
            yield asked, outcome

        monkeypatch.setattr(suite, "run_in_workers", pool)
        with pytest.raises(AnatoBenchError, match=message):
            list(climb_all([asked], workers=1))


@pytest.mark.slow
def test_one_red_gate_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    good = climb(Climb("r3d_18", "ratic", "float64", steps=0, crop_size=(16, 16, 16)))
    bad = {**good, "passed": False, "first_failure": "stage stem"}
    monkeypatch.setattr(command, "climb_all", lambda climbs, workers: iter([good, bad]))
    assert main(["parity", "--all", "--json"]) == 1
    output = capsys.readouterr()
    figures = json.loads(output.out.splitlines()[-1])
    assert (figures["passed"], len(figures["climbs"])) == (False, 2)
    assert "DIFFERENT: stage stem" in output.err
    assert "SOME GATES FAILED" in output.err


@pytest.mark.parametrize(("grads_tolerance", "cell"), [(None, "2e-03*"), (1e-4, "4e-02")])
def test_the_table_shows_the_gradient_that_is_a_gate(grads_tolerance: float | None, cell: str) -> None:
    errors = {**dict.fromkeys(SUMMARY_KINDS, 1e-7), "grads": 4e-2, "whole_gradient": 2e-3}
    figures = {
        **{"model": "r3d_18", "task": "ratic", "dtype": "float32", "size": "full", "crop_size": [16, 16, 16]},
        **{"steps": 0, "passed": True, "tolerance": 1e-4, "seconds": 1.0, "peak_memory_bytes": 1},
        "max_rel_error": errors,
        "rungs": [{"name": "gradients", "tolerance": grads_tolerance}],
    }
    assert f" {cell} " in command._summary_row(figures)
