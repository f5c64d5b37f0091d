"""Where an arm keeps its compiled programs: a folder of its own, so that whether it began with none can be known."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anatobench.bench.arms import Arm
from anatobench.errors import UsageError
from anatobench.system.compile_cache import VARIABLE

FOLDERS = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch", "TRITON_CACHE_DIR": "triton"}
"""Of the environment: the frameworks' own caches, below the arm's folder for peers, which know no `compile_cache`."""
EMPTY, FILLED = "empty", "filled"


@dataclass(frozen=True)
class ArmCache:
    """One arm's."""

    environment: dict[str, str]
    """The whole of it, for the arm's process."""
    state: str | None = None
    """Before its process began: `empty`, so that its first step compiled everything; `filled`, with what it left there
    earlier; None: it had no folder of its own, and nobody knows."""


def arm_cache(root: Path | None, arm: Arm) -> ArmCache:
    """`root/ARM`, made if it is missing; without `root` whatever the environment says. `UsageError` if it cannot be.

    The suite's own frameworks are told as every user tells them, by `compile_cache`; what else the environment says of
    their caches is taken away, for it would win.
    """
    if root is None:
        return ArmCache(dict(os.environ))
    folder = (root / arm.name.replace(":", "_").replace(" ", "_")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        filled = any(path.is_file() for path in folder.rglob("*"))
    except OSError as error:
        raise UsageError(f"--cache {root}: {error.strerror}: name a folder that can be written") from None
    environment = {name: value for name, value in os.environ.items() if name not in FOLDERS}
    if arm.peer is not None:
        environment |= {variable: str(folder / name) for variable, name in FOLDERS.items()}
    return ArmCache({**environment, VARIABLE: str(folder)}, FILLED if filled else EMPTY)
