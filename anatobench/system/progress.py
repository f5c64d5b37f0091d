"""A progress bar in a terminal; in a job's log the same figures twice a minute instead of ten times a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0


def progress_bar(total: int, what: str, unit: str, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr for `total` things; `options` are tqdm's."""
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL_S
    return tqdm(total=total, desc=what, unit=unit, file=sys.stderr, mininterval=interval, **options)


class SharedProgress:
    """How much is done of what several processes do together: a bar in a terminal, whole lines in a job's log, which
    `srun --label` and `torchrun --tee` can mark with who said them. Nothing if `silent`."""

    def __init__(self, total: int, what: str, unit: str, silent: bool = False) -> None:
        self._total, self._what, self._unit = total, what, unit
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=what, unit=unit, leave=False, disable=silent or not terminal)
        self._lines = not silent and not terminal
        self._done, self._begun = 0, time.monotonic()
        self._said = self._begun

    def __enter__(self) -> SharedProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def update(self, count: int) -> None:
        """Count what was done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._lines and now - self._said >= LOG_INTERVAL_S:
            rate = self._done / (now - self._begun)
            print(f"{self._what}: {self._done} of {self._total} {self._unit}s, {rate:.3g} per second", file=sys.stderr)
            self._said = now
