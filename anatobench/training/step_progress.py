"""How far training is, on stderr: a bar in a terminal, a line now and then in a job's log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tqdm import tqdm

from anatobench.system.progress import said_after

LINE_INTERVAL_S = 30.0
COMPILING_S = 5.0
"""A first step that takes longer is being compiled."""


class StepProgress:
    """Shows completed steps, the loss and steps per second; nothing if `silent`."""

    def __init__(self, step: int, total_steps: int, silent: bool = False) -> None:
        self._total, self._silent = total_steps, silent
        no_bar = silent or not sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=step, unit="step", desc="train", disable=no_bar)
        self._line_step, self._line_time = self._first = step, time.monotonic()

    def show(self, step: int, epoch: int, loss: float) -> None:
        """Show that a step is complete."""
        self._bar.update(1)
        self._bar.set_postfix({"epoch": epoch, "loss": f"{loss:.4f}"}, refresh=False)
        elapsed = time.monotonic() - self._line_time
        if self._bar.disable and (elapsed >= LINE_INTERVAL_S or step == self._total):
            # The last line may follow another at once: then the rate is that of the whole session.
            from_step, since = (self._line_step, self._line_time) if elapsed >= LINE_INTERVAL_S else self._first
            rate = (step - from_step) / max(time.monotonic() - since, 1e-9)
            self.say(f"step {step}/{self._total}, epoch {epoch}, loss {loss:.4f}, {rate:.3g} steps/s")
            self._line_step, self._line_time = step, time.monotonic()

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Around giving the device its first step, which waits for the compiler: says so if it takes a while."""
        started = time.monotonic()
        with said_after(COMPILING_S, partial(self.say, "the first step: what no cache holds is being compiled")):
            yield
        if (elapsed := time.monotonic() - started) >= COMPILING_S:
            self.say(f"the first step was given to the device after {elapsed:.0f} s, compilation included")

    def say(self, sentence: str) -> None:
        """Print a line without breaking the bar."""
        if not self._silent:
            tqdm.write(f"train: {sentence}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
