"""`train --profile`: a trace of a few steps of a run, once the first ones have compiled and chosen their kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from anatobench.engine import TRACE, Instruments
from anatobench.errors import AnatoBenchError, UsageError

PROFILE_FOLDER = "profile"
WARM_UP, TRACED = 3, 5
"""Steps before the trace, and in it."""


class StepTrace:
    """Begins and ends the trace between the steps of this session; does nothing without instruments. `UsageError` for
    a kind of profile that the framework does not have here."""

    def __init__(
        self, instruments: Instruments | None, run: Path, kind: str, say: Callable[[str], None] = lambda said: None
    ) -> None:
        if instruments is not None and kind not in instruments.profiles():
            raise UsageError(
                f"--profile {kind}: this framework has no such profile on this device: choose "
                f"{' or '.join(instruments.profiles())}"
            )
        self._instruments, self._kind, self._say = instruments, kind, say
        self._folder = run / PROFILE_FOLDER
        self._steps = 0
        self._open = ExitStack()

    def before_step(self, step: int) -> None:
        """To be called before each step (from 0) is begun."""
        if self._instruments is None:
            return
        if self._steps == WARM_UP:
            self._instruments.synchronise()
            label = f"steps_{step + 1}_to_{step + TRACED}"
            self._open.enter_context(self._instruments.trace(self._folder, label, self._kind))
        elif self._steps == WARM_UP + TRACED:
            self.close()
        self._steps += 1

    def named_range(self, name: str) -> AbstractContextManager[None]:
        """Call what is done inside `name` in the trace."""
        return nullcontext() if self._instruments is None else self._instruments.named_range(name)

    def close(self) -> None:
        """End the trace, if one is open, and say where it lies; a run of fewer steps has a shorter one, or none."""
        if self._instruments is None:
            return
        try:
            self._open.close()
        except OSError as error:
            raise AnatoBenchError(
                f"{self._folder}: the trace cannot be written ({error.strerror}): make room, or leave --profile out"
            ) from None
        if self._steps <= WARM_UP:
            self._say(f"--profile: no trace: it begins after {WARM_UP} steps, and this session had {self._steps}")
        elif self._kind == TRACE:
            self._say(f"a trace lies in {self._folder}: open it in Perfetto (docs/profiling.md)")
        self._instruments = None


NO_TRACE = StepTrace(None, Path(), TRACE)
