"""A progress bar in a terminal; in a job's log the same figures twice a minute, as whole lines."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 30.0
SLOW_S = 5.0
"""What takes longer without a bar is named."""


def progress_bar(total: int | None, what: str, unit: str, each: bool = False, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr for `total` things, None if nobody knows how many; `options` are tqdm's. Where there
    is nothing left to do there is no bar. Where stderr is no terminal it is lines, and none for short work
    unless `each` change is worth one."""
    if total is not None and total <= options.get("initial", 0):
        options["disable"] = True
    if not sys.stderr.isatty():
        options |= {
            "file": _LogLines(0.0 if each else LOG_INTERVAL_S),
            "bar_format": "{desc}: {n_fmt}/{total_fmt} in {elapsed}, {rate_fmt}{postfix}",
        }
    return tqdm(total=total, desc=what, unit=unit, **{"file": sys.stderr, **options})


class _LogLines:
    """A file in which tqdm draws, of which a line goes to stderr at most every `interval` seconds, and a last one
    where there was another."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._drawn, self._lines, self._said = "", 0, time.monotonic()

    def write(self, text: str) -> None:
        """Take what tqdm draws over the bar it drew before, or the line's end after the last one."""
        self._drawn = text.strip() or self._drawn
        due = bool(text.strip()) and time.monotonic() - self._said >= self._interval
        if self._drawn and (due or (text == "\n" and self._lines)):
            print(self._drawn, file=sys.stderr, flush=True)
            self._drawn, self._lines, self._said = "", self._lines + 1, time.monotonic()

    def flush(self) -> None:
        """See `write`, which does it."""


def named_on(bar: tqdm[Any]) -> Callable[[str], None]:
    """Return what is told the name of each step that begins, to show it on the bar and count it."""

    def tell(what: str) -> None:
        bar.n += 1
        bar.set_postfix_str(what)

    return tell


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


@contextmanager
def named_if_slow(what: str) -> Iterator[None]:
    """Around work of which nobody knows how far it is: a line on stderr says what it is, if it takes a while."""
    with said_after(SLOW_S, partial(tqdm.write, f"{what} ...", file=sys.stderr)):
        yield


@contextmanager
def said_after(seconds: float, say: Callable[[], object]) -> Iterator[None]:
    """Around work that may take a while: `say` is called, in another thread, if it is not done after so long."""
    notice = threading.Timer(seconds, say)
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
