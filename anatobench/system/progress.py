"""A progress bar in a terminal; in a job's log the same figures twice a minute instead of ten times a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0
SLOW_S = 5.0
"""What takes longer without a bar is named."""


def progress_bar(total: int | None, what: str, unit: str, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr for `total` things, None if nobody knows how many; `options` are tqdm's. Where there
    is nothing left to do there is no bar."""
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    if total is not None and total <= options.get("initial", 0):
        options["disable"] = True
    return tqdm(total=total, desc=what, unit=unit, file=sys.stderr, mininterval=interval, **options)


@contextmanager
def named_if_slow(what: str) -> Iterator[None]:
    """Around work of which nobody knows how far it is: a line on stderr says what it is, if it takes a while."""
    notice = threading.Timer(SLOW_S, tqdm.write, [f"{what} ..."], {"file": sys.stderr})
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
