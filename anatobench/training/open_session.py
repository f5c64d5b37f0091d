"""What a run holds open while a process trains it, and how that ends in all of its processes at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from anatobench.engine import Collective
from anatobench.system.processes import raise_together
from anatobench.system.signals import Interrupted, StopSignals
from anatobench.training.checkpoints import CheckpointSaver
from anatobench.training.metrics_log import MetricsLog
from anatobench.training.step_progress import StepProgress


@dataclass
class OpenSession:
    """Signals do not reach all processes at once, and a save or the log may fail in one alone. So each says with its
    step whether it wants to end, and all of them end after the same one."""

    engine: Collective
    stop: StopSignals
    saver: CheckpointSaver
    log: MetricsLog
    progress: StepProgress
    end_agreed: bool = False
    """Whether all processes know that one of them wants to end."""

    @property
    def wants_to_end(self) -> bool:
        """Whether this process wants all of them to end."""
        return self.stop.received or self.saver.failed or self.log.failure is not None

    def check(self) -> None:
        """Raise what ends the run after the same step in every process."""
        if self.engine.processes.alone:
            if self.saver.failed:
                self.saver.wait()
            self.stop.check()
        elif self.end_agreed:
            raise_together(self.engine.processes, self.engine.gather, self.log.failure)
            self.saver.wait()
            self.stop.check()
            raise Interrupted("another process was asked to stop")

    def check_between_batches(self) -> None:
        """Raise it between the same batches of an evaluation in every process."""
        if self.engine.processes.alone:
            self.stop.check()
            return
        self.end_agreed = bool(self.engine.gather(np.array([self.wants_to_end])).any())
        self.check()

    def wait_for_the_others(self) -> None:
        """Nobody leaves before the first process has written its files; who comes here by an error goes at once."""
        if not self.engine.processes.alone and isinstance(sys.exception(), Interrupted | None):
            self.engine.gather(np.zeros(1))
