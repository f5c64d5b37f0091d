"""How far training is, on stderr: a bar in a terminal, a line now and then in a job's log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_INTERVAL_S = 30.0


class StepProgress:
    """Shows completed steps, the loss and steps per second; nothing if `silent`."""

    def __init__(self, step: int, total_steps: int, silent: bool = False) -> None:
        self._total, self._silent = total_steps, silent
        no_bar = silent or not sys.stderr.isatty()
        self._bar = tqdm(total=total_steps, initial=step, unit="step", desc="train", disable=no_bar)
        self._line_step, self._line_time = step, time.monotonic()

    def show(self, step: int, epoch: int, loss: float) -> None:
        """A step is complete."""
        self._bar.update(1)
        self._bar.set_postfix({"epoch": epoch, "loss": f"{loss:.4f}"}, refresh=False)
        elapsed = time.monotonic() - self._line_time
        if self._bar.disable and (elapsed >= LINE_INTERVAL_S or step == self._total):
            rate = (step - self._line_step) / max(elapsed, 1e-9)
            self.say(f"step {step}/{self._total}, epoch {epoch}, loss {loss:.4f}, {rate:.3g} steps/s")
            self._line_step, self._line_time = step, time.monotonic()

    def say(self, sentence: str) -> None:
        """Print a line without breaking the bar."""
        if not self._silent:
            tqdm.write(f"train: {sentence}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
