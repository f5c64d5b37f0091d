"""Where an arm keeps its compiled programs: a folder of its own, so that whether it began with none can be known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anatobench.bench.arms import Arm
from anatobench.compile_cache import VARIABLE
from anatobench.errors import UsageError

FOLDERS = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch", "TRITON_CACHE_DIR": "triton"}
"""Of the environment, for what compiles without asking `compile_cache`, peers above all; below the arm's folder."""
EMPTY, FILLED = "empty", "filled"


@dataclass(frozen=True)
class ArmCache:
    """One arm's."""

    environment: dict[str, str] = field(default_factory=dict)
    """For its process."""
    state: str | None = None
    """Before its process began: `empty`, so that its first step compiled everything; `filled`, with what it left there
    earlier; None: it had no folder of its own, and nobody knows."""


def arm_cache(root: Path | None, arm: Arm) -> ArmCache:
    """`root/ARM`, made if it is missing; without `root` whatever the environment says. `UsageError` if it cannot be."""
    if root is None:
        return ArmCache()
    folder = (root / arm.name.replace(":", "_").replace(" ", "_")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        filled = any(path.is_file() for path in folder.rglob("*"))
    except OSError as error:
        raise UsageError(f"--cache {root}: {error.strerror}: name a folder that can be written") from None
    return ArmCache(cache_environment(folder), FILLED if filled else EMPTY)


def cache_environment(folder: Path) -> dict[str, str]:
    """For a process that is to keep what it compiles there."""
    return {VARIABLE: str(folder), **{variable: str(folder / name) for variable, name in FOLDERS.items()}}
