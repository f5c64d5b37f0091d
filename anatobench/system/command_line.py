"""Commands as they are printed: what a person copies into a shell is what was meant."""

from __future__ import annotations

import shlex
from pathlib import Path


def shown(*words: str | Path) -> str:
    """Return `anatobench WORDS`, quoted for a shell where a word needs it."""
    return shlex.join(["anatobench", *map(str, words)])
