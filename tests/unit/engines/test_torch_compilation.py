"""The compiled step of PyTorch: one graph, compiled once, with the results of the step taken operation by operation.

The graphs are counted with a backend that runs them as they are: what Inductor makes of them takes minutes on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from phased_kind import phased
from shallow_transformers import make_transformers_shallow
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import torch_ref.compilation as compilation
import torch_ref.layers.triton_language as triton_language
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.objectives.registry import KINDS, plan_of
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import MODELS, Recipe
from anatobench.store.batch import Batch
from anatobench.system.compile_cache import VARIABLE
from anatobench.tasks import RATIC
from torch_ref.engine import PendingStep, TorchEngine
from torch_ref.transfer import Transfer

RECIPE = Recipe(precision="fp32", fast="true", seed=3, segmentation_loss="ce_dice")
CROP = (8, 16, 20)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Dynamo's counters, for models of few blocks: every kind of block is traced."""
    make_transformers_shallow(monkeypatch)
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def build(model: str, **changes: Any) -> tuple[Engine, list[Batch]]:
    spec = ModelSpec(model, "tiny", RATIC, CROP)
    return load_engine("torch", spec, replace(RECIPE, **changes)), [parity_batch(spec, 2, 0, s) for s in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_one_graph_for_all_steps_and_one_for_evaluation(model: str, counted: Any) -> None:
    """Nothing is drawn, so that the compiled step and the other one can be compared."""
    compiled, batches = build(model, compile="true", dropout=False)
    eager, _ = build(model, compile="false", dropout=False)
    eager.load_weights(compiled.weights())
    for step, batch in enumerate(batches):
        ours, theirs = (engine.train_step(batch, 1e-4, step).fetch() for engine in (compiled, eager))
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
        # Validation between steps: the model changes its mode, and nothing is compiled for it.
        np.testing.assert_allclose(
            compiled.predict(batch["volume"]), eager.predict(batch["volume"]), rtol=1e-3, atol=1e-4
        )
    assert counted["stats"]["unique_graphs"] == 2
    assert not counted["graph_break"]


def test_a_last_smaller_batch_costs_one_compilation_once(counted: Any) -> None:
    engine, batches = build("r3d_18", compile="true")
    engine.predict(batches[0]["volume"])
    for batch in batches[:2]:
        engine.predict(batch["volume"][:1])
    engine.predict(batches[1]["volume"])
    assert counted["stats"]["unique_graphs"] == 2


@pytest.mark.slow
def test_one_graph_for_each_phase_however_often_they_take_turns(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher, which is no part of the module that is compiled."""
    monkeypatch.setitem(KINDS, "phased", phased)
    recipe = replace(RECIPE, objective="phased", fast="false", dropout=False)
    spec = ModelSpec("r3d_18", "tiny", RATIC, CROP, plan_of(recipe, RATIC).heads)
    compiled, eager = (load_engine("torch", spec, replace(recipe, compile=asked)) for asked in ("true", "false"))
    eager.load_weights(compiled.weights())
    for step, phase in enumerate((0, 1, 2, 0, 2, 1)):
        batch = parity_batch(spec, 2, 0, step)
        ours, theirs = (e.train_step(batch, 1e-4, step, phase=phase).fetch() for e in (compiled, eager))
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-2)
        compiled.predict(batch["volume"])
    assert counted["stats"]["unique_graphs"] == 4
    assert not counted["graph_break"]


@pytest.mark.slow
def test_what_is_drawn_in_a_compiled_step_depends_on_the_step_alone(counted: Any) -> None:
    engine, (batch, *_) = build("mvit_v2_s", compile="true", learning_rate=1e-30)
    weights = engine.weights()

    def losses(step: int) -> bytes:
        engine.load_weights(weights)
        return engine.train_step(batch, 1e-30, step).fetch().case_losses.tobytes()

    first = losses(5)
    assert losses(6) != first
    assert losses(5) == first


def test_more_shapes_than_pytorch_compiles_by_itself(counted: Any) -> None:
    """A search for the largest batch, or a ladder of models, in one process."""
    spec, shapes = ModelSpec("r3d_18", "tiny", RATIC, (8, 8, 8)), 3
    with torch._dynamo.config.patch(recompile_limit=shapes - 1):
        engine = load_engine("torch", spec, replace(RECIPE, compile="true", fast="false"))
        for cases in range(1, 1 + shapes):
            engine.predict(parity_batch(spec, cases, 0, 0)["volume"])
    assert counted["stats"]["unique_graphs"] == shapes


class HostReads(TorchDispatchMode):
    """Operations for whose result a GPU's host would wait."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "masked_select", "equal")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in self.WAITING:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS)
def test_a_step_reads_nothing_back_and_leaves_the_fetch_to_the_caller(model: str) -> None:
    engine, batches = build(model, compile="false")
    assert isinstance(engine, TorchEngine)
    # As on a GPU: the plain AdamW reads its own count of steps, which is on the host.
    engine._state.optimizer.param_groups[0].update(fused=True, foreach=False)
    engine.train_step(batches[0], 1e-4, 0).fetch()
    with HostReads() as reads:
        pending = engine.train_step(batches[1], 1e-4, 1)
        assert isinstance(pending, PendingStep)
        assert reads.found == []
        pending.figures[0].item()
    assert reads.found, "this is how one would be seen"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_the_gpu(model: str) -> None:
    engine, batches = build(model)
    engine.train_step(batches[0], 1e-4, 0).fetch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = engine.train_step(batches[1], 1e-4, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(pending.fetch().loss)


def test_who_asks_for_neither_gets_what_the_device_has() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [compilation.compiles("auto", device) for device in (cpu, gpu)] == [False, True]
    assert [compilation.compiles("true", device) for device in (cpu, gpu)] == [True, True]
    assert [compilation.compiles("false", device) for device in (cpu, gpu)] == [False, False]
    assert compilation.compiles("graphs", gpu)


def test_programs_are_kept_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv(compilation.CACHE_VARIABLE, "/own")
    monkeypatch.setenv(compilation.TRITON_VARIABLE, "")
    monkeypatch.delenv(compilation.TRITON_VARIABLE)  # and afterwards it is what it was
    compilation.keep_compiled_programs()
    assert os.environ[compilation.CACHE_VARIABLE] == "/own"
    assert os.environ[compilation.TRITON_VARIABLE] == str(tmp_path / "torch" / "triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("compile", ["auto", "true"])
def test_a_cpu_that_compiles_nothing_keeps_nothing(
    compile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for name in (compilation.CACHE_VARIABLE, compilation.TRITON_VARIABLE):
        monkeypatch.setenv(name, "")  # and afterwards they are what they were
        monkeypatch.delenv(name)
    load_engine("torch", ModelSpec("r3d_18", "tiny", RATIC, CROP), replace(RECIPE, compile=compile))
    assert (tmp_path / "torch").exists() == (compile == "true")


def test_without_a_compiler_a_gpu_is_given_operation_by_operation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    assert not compilation.compiles("auto", torch.device("cuda"))
    assert "install gcc" in capsys.readouterr().err
    assert compilation.compiles("true", torch.device("cuda")), "who insists hears it from PyTorch"


def test_without_a_compiler_no_kernel_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """MViT's convolutions take PyTorch's form then, whatever the step."""
    on_a_gpu = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(triton_language, "AVAILABLE", True)
    monkeypatch.setattr(triton_language, "INTERPRETED", False)
    for found in (True, False):
        monkeypatch.setattr(triton_language, "LAUNCHES", found)
        assert triton_language.kernels_run_on(on_a_gpu) == found  # type: ignore[arg-type]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not triton_language.compiler_found(), "Triton takes no other than CC then"


def test_on_a_cpu_nothing_is_copied() -> None:
    array = np.arange(6, dtype=np.int16)
    assert Transfer(torch.device("cpu"))(array).data_ptr() == array.ctypes.data
