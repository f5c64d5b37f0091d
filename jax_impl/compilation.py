"""How XLA compiles the engine's programs: with which options, and where the compiled ones are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax

from anatobench.recipes import Recipe
from anatobench.system.compile_cache import compile_cache

SECONDS_WORTH_KEEPING = 0.2
"""JAX itself keeps what took a second to compile. A tiny model's evaluation takes less, and every test and every
worker of a study compiles one."""


@dataclass(frozen=True)
class CompilerOption:
    """One of XLA's debug options."""

    name: str
    value: bool | str
    device_kind: str
    """`cpu` or `gpu`."""
    wanted: Callable[[Recipe], bool]
    reason: str
    """What was measured, or why nothing had to be."""


OPTIONS = (
    CompilerOption(
        "xla_gpu_force_conv_nhwc",
        True,
        "gpu",
        lambda recipe: True,
        "3D convolutions by cuDNN with channels last, as the port's arrays lie: XLA turns them to channels first. "
        "r3d_18, chest, bf16, batch 10 on an H100: 63.5 ms a step in place of 86.1, 40 s to compile in place of 136.",
    ),
    CompilerOption(
        "xla_disable_hlo_passes",
        "cse_barrier_expander",
        "cpu",
        lambda recipe: recipe.recompute,
        "XLA's CPU compiler takes the barriers around what is recomputed away, and then merges it with its first "
        "computation, so that nothing is saved.",
    ),
)
"""What every program of the engine is compiled with.

Not taken: `xla_gpu_enable_triton_gemm=False`. On an H100 the transformers compiled in 90 to 125 s in place of 225, and
Swin's step took 74.6 ms in place of 72.0; what compiles once per machine may take longer. `xla_gpu_autotune_level=0`
compiles r3d_18 in 13 s, and its step then takes 20 s.
"""


def compiler_options(recipe: Recipe, device_kind: str) -> dict[str, bool | str]:
    """For `jax.jit(compiler_options=...)`; options that this version's XLA does not have are left out."""
    options = [option for option in OPTIONS if option.device_kind == device_kind and option.wanted(recipe)]
    return {option.name: option.value for option in options if _has(option.name, option.value)}


@cache
def _has(name: str, value: bool | str) -> bool:
    """Return whether XLA knows an option; it says so only when it compiles something."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def keep_compiled_programs() -> None:
    """Turn JAX's persistent compilation cache on, in the folder that `system.compile_cache` names, unless the user
    chose one (`JAX_COMPILATION_CACHE_DIR`, `jax_compilation_cache_dir`) or none (`JAX_ENABLE_COMPILATION_CACHE=false`).

    On a GPU, XLA keeps the results of its autotuning beside the programs (`jax_persistent_cache_enable_xla_caches`,
    JAX's default): they are most of the time, and serve other programs with the same products too.
    """
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] is not None or not chosen["jax_enable_compilation_cache"]:
        return
    folder = compile_cache("jax")
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS_WORTH_KEEPING)
