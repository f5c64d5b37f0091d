"""What a shell sees of a command line."""

from __future__ import annotations

from collections.abc import Sequence

from anatobench.cli.main import main


def exit_status(words: Sequence[str]) -> int:
    """Return the exit status, also where the parser of the arguments ends the process itself."""
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
