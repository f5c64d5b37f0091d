"""XLA's options reach every program, what XLA does not know is left out, and compiled programs are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from anatobench.engine import ModelSpec, load_engine
from anatobench.parity.inputs import parity_batch
from anatobench.recipes import Recipe
from anatobench.system.compile_cache import VARIABLE
from anatobench.tasks import RATIC
from jax_impl import compilation
from jax_impl.compilation import OPTIONS, CompilerOption, compiler_options, keep_compiled_programs

SPEC = ModelSpec("r3d_18", "tiny", RATIC, crop_size=(8, 16, 16))
BATCH = parity_batch(SPEC, 2, seed=0, step=0)


def test_options_by_device_and_recipe() -> None:
    assert compiler_options(Recipe(), "gpu") == {"xla_gpu_force_conv_nhwc": True}
    assert compiler_options(Recipe(), "cpu") == {}
    assert compiler_options(Recipe(recompute=True), "cpu") == {"xla_disable_hlo_passes": "cse_barrier_expander"}
    assert all(option.reason for option in OPTIONS)


def option_of(name: str) -> CompilerOption:
    return CompilerOption(name, True, "cpu", lambda recipe: True, "a test")


def test_an_option_that_this_xla_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known = option_of("xla_cpu_enable_fast_min_max")
    monkeypatch.setattr(compilation, "OPTIONS", (option_of("xla_of_another_version"), known))
    found = compiler_options(Recipe(), "cpu")
    assert found == {known.name: True}
    assert jax.jit(lambda x: x + 1, compiler_options=found)(1) == 2


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "train_step": lambda engine: engine.train_step(BATCH, 1e-3, 0),
    "predict": lambda engine: engine.predict(BATCH["volume"]),
    "segment": lambda engine: engine.segment(BATCH["volume"]),
    "inspect": lambda engine: engine.inspect(BATCH),
    "attribution": lambda engine: engine.attribution(BATCH["volume"], np.ones((2, RATIC.logit_count))),
    "hessian_product": lambda engine: engine.hessian_product(
        BATCH, {name: np.ones(shape) for name, shape in engine.parameter_shapes().items()}
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_reach_every_program(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA refuses the program whose option it does not know."""
    monkeypatch.setattr(compilation, "OPTIONS", (option_of("xla_of_another_version"),))
    monkeypatch.setattr(compilation, "_has", lambda name, value: True)
    engine = load_engine("jax", SPEC, Recipe())
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_another_version"):
        PROGRAMS[program](engine)


SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def no_cache_yet() -> Iterator[None]:
    """As in a process that has compiled nothing, of a user who set nothing."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_cache_yet")
def test_compiled_programs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(compilation, "SECONDS_WORTH_KEEPING", 0.0)
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "jax")
    assert "autotune" in jax.config.values["jax_persistent_cache_enable_xla_caches"]
    hits: list[str] = []

    def note(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        for expected in (0, 1):
            jax.jit(lambda x: jnp.tanh(x) @ x.T)(np.ones((3, 3), np.float32))  # another function each time
            assert len(hits) == expected
    finally:
        jax.monitoring.unregister_event_listener(note)
    assert list((tmp_path / "jax").glob("*-cache"))


@pytest.mark.usefixtures("no_cache_yet")
def test_the_engine_turns_the_cache_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    load_engine("jax", SPEC, Recipe())
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "jax")


@pytest.mark.usefixtures("no_cache_yet")
@pytest.mark.parametrize("chosen", ["folder", "none"])
def test_what_the_user_chose_stays(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ours"))
    folder = str(tmp_path / "theirs") if chosen == "folder" else None
    jax.config.update("jax_compilation_cache_dir", folder)
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", chosen == "folder")
    try:
        keep_compiled_programs()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert jax.config.values["jax_compilation_cache_dir"] == folder
    assert not (tmp_path / "ours").exists()


def test_recompute_is_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe decides, not the device alone."""
    assert compiler_options(replace(Recipe(), recompute=True), "gpu") == compiler_options(Recipe(), "gpu")
