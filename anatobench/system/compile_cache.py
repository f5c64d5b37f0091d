"""Where compiled programs are kept, so that a model is compiled once per machine instead of once per process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "ANATOBENCH_COMPILE_CACHE"
"""Of the environment: a folder, or `off`."""
OFF = "off"


def compile_cache(framework: str) -> Path | None:
    """Return the folder of a framework's compiled programs, made if it is missing:
    `$ANATOBENCH_COMPILE_CACHE/FRAMEWORK`, or beside other programs' caches in the home directory. None where it is
    switched off or cannot be written."""
    named = os.environ.get(VARIABLE)
    if named == OFF:
        return None
    root = Path(named) if named else _home_cache() / "anatobench" / "compiled"
    folder = (root / framework).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a read-only file system says so only now
            return folder
    except OSError:
        return None


def _home_cache() -> Path:
    """By the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
