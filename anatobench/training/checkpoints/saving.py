"""Saving beside training: one checkpoint at a time is on its way to the disk while steps go on.

The framework's `StateSaver` copies the state, for which training stands still, and writes the copy in this module's
thread, for which it does not. When every file is on the disk the folder is sealed and given its name.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anatobench.engine import PendingSave, StateSaver
from anatobench.errors import AnatoBenchError
from anatobench.system.state_files import NotFiniteError, Trees, check_finite, safetensors_writer, write_trees
from anatobench.training.checkpoints.folder import publish, step_folder, unfinished_folder
from anatobench.training.checkpoints.progress import MODEL, Checkpoint, Progress
from anatobench.training.checkpoints.state_file import seal

_WORDS = {MODEL: "weight", "optimizer": "moment"}


def raised_alone(failure: BaseException | None) -> None:
    """Raise it, if there is any: what one process agrees on with itself."""
    if failure is not None:
        raise failure


class CheckpointSaver:
    """Writes a run's checkpoints, one at a time. What went wrong is raised by the next call."""

    def __init__(
        self,
        run: Path,
        saver: StateSaver,
        leads: bool = True,
        before_sealing: Callable[[], None] = lambda: None,
        agree: Callable[[BaseException | None], None] = raised_alone,
    ) -> None:
        """`leads`: whether this process seals what all of them have written, once `before_sealing` is done.

        `agree` is given what went wrong in this process, or None, and raises in all of them if anything did in one; it
        is called by `begin` and `wait`, which all of them call at the same places.
        """
        self._run, self._saver, self._leads, self._before_sealing = run, saver, leads, before_sealing
        self._agree = agree
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.sealed_step = 0
        """Of the newest checkpoint that this saver finished; 0 before the first."""

    def begin(self, progress: Progress) -> None:
        """Return as soon as the state may change again; a save that is still on its way is waited for first.

        `AnatoBenchError` if this or the last one cannot be written.
        """
        unfinished = unfinished_folder(self._run, progress.step)
        failure = self._ended()
        if failure is None and self._leads:
            try:
                unfinished.mkdir(parents=True)
            except OSError as error:
                failure = self._explained(error, progress)
        self._agree(failure)
        try:
            pending = self._saver.begin(unfinished)
        except BaseException as error:
            raise self._explained(error, progress) from None
        # Not a daemon: an interpreter that ends waits for the disk.
        self._thread = threading.Thread(target=self._finish, args=(pending, progress), name="checkpoint")
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether a save has ended badly, which the next call raises; one that goes on is left alone."""
        return self._failure is not None

    def wait(self) -> None:
        """Wait until nothing is on its way; raise what went wrong."""
        self._agree(self._ended())

    def _ended(self) -> BaseException | None:
        """Return what went wrong, once nothing is on its way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        return failure

    def settle(self) -> int:
        """Wait without raising what went wrong, for a run that another error ends; the newest step that is sealed."""
        if self._thread is not None:
            self._thread.join()
        return self.sealed_step

    def close(self) -> None:
        """Settle, and let go of the memory."""
        self.settle()
        self._saver.close()

    def _finish(self, pending: PendingSave, progress: Progress) -> None:
        try:
            pending.finish()
            if self._leads:
                self._before_sealing()
                seal(unfinished_folder(self._run, progress.step), progress, pending.writer)
                publish(self._run, progress)
            self.sealed_step = progress.step
        except BaseException as error:  # raised in the thread that trains
            self._failure = self._explained(error, progress)

    def _explained(self, error: BaseException, progress: Progress) -> BaseException:
        """Return what to raise for it, after removing what was written."""
        if self._leads:
            shutil.rmtree(unfinished_folder(self._run, progress.step), ignore_errors=True)
        if isinstance(error, NotFiniteError):
            kind = _WORDS.get(error.tree, f"{error.tree}'s")
            return AnatoBenchError(
                f"step {progress.step}: {kind} {error.name} is not finite, so no checkpoint is written: "
                "lower the learning rate or use precision fp32; the checkpoints before it are intact"
            )
        if isinstance(error, OSError):
            return AnatoBenchError(
                f"{step_folder(self._run, progress.step)}: cannot be written ({error.strerror}): make room and resume; "
                "earlier checkpoints are intact"
            )
        return error


@dataclass(frozen=True)
class ArraysOnTheirWay:
    """Arrays that nobody changes any more, as a `PendingSave`."""

    folder: Path
    trees: Trees
    """In canonical form, contiguous."""

    @property
    def writer(self) -> Mapping[str, str]:
        """See `anatobench.engine.PendingSave.writer`."""
        return safetensors_writer()

    def finish(self) -> None:
        """See `anatobench.engine.PendingSave.finish`."""
        check_finite(self.trees)
        write_trees(self.folder, self.trees)


@dataclass(frozen=True)
class _GivenState:
    """A `StateSaver` of arrays instead of an engine."""

    trees: Trees

    def begin(self, folder: Path) -> ArraysOnTheirWay:
        contiguous = {
            tree: {name: np.asarray(array, order="C") for name, array in arrays.items()}
            for tree, arrays in self.trees.items()
        }
        return ArraysOnTheirWay(folder, contiguous)

    def close(self) -> None:
        pass


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write arrays as a checkpoint and wait for it; its folder. Its errors are those of `CheckpointSaver.begin`."""
    saver = CheckpointSaver(run, _GivenState(checkpoint.trees))
    saver.begin(checkpoint.progress)
    saver.wait()
    return step_folder(run, checkpoint.progress.step)
