"""A progress bar in a terminal; in a job's log the same figures twice a minute instead of ten times a second."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0


def progress_bar(total: int, what: str, unit: str, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr for `total` things; `options` are tqdm's."""
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    return tqdm(total=total, desc=what, unit=unit, file=sys.stderr, mininterval=interval, **options)
