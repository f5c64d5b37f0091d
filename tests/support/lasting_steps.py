"""Steps of training that last, in processes that tests start with `lasting_from`: tiny models would be trained before a
signal has come."""

from __future__ import annotations

import time
from functools import wraps

from anatobench.training.step_progress import StepProgress

SECONDS = 0.5


def make_steps_last(first: int) -> None:
    """Do so for the rest of this process: once that step or a later one is complete and logged, nothing goes on for so
    long."""
    show = StepProgress.show

    @wraps(show)
    def show_and_wait(self: StepProgress, step: int, epoch: int, loss: float) -> None:
        show(self, step, epoch, loss)
        if step >= first:
            time.sleep(SECONDS)

    StepProgress.show = show_and_wait  # type: ignore[method-assign]
