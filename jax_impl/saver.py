"""A run's state on its way to the disk: copied on the device between two steps, written from there by Orbax beside the
next."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from anatobench.errors import AnatoBenchError
from anatobench.system.processes import Processes
from anatobench.system.state_files import ORBAX, NotFiniteError
from jax_impl import parallel
from jax_impl.precision import Precision
from jax_impl.step import TrainState
from jax_impl.weights import Entry, array_at, step_counts

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_SYSTEM_ERROR = re.compile(r"os_error_code=\\?'(?P<number>[0-9]+)")
"""How tensorstore says why the disk refuses; the quote has a backslash where a text quotes it."""
Leaves = dict[str, dict[str, tuple[Entry, jax.Array]]]
"""By tree and canonical name: an array in the model's layout (`Entry.permutation`), of this process alone."""
WHOLE_PART = "whole_part_{}"
"""An empty file beside Orbax's for every process whose part is on the disk, until the checkpoint is sealed."""


class _HeldErrors:
    """What goes wrong while Orbax writes, until all processes have passed its barriers: one that leaves before would
    keep the others there for as long as they wait for the slowest."""

    def __init__(self, handler: ocp.PyTreeCheckpointHandler) -> None:
        """Take the place of the two methods that write (a class of its own would be named in what is written)."""
        self._mark, self._held = Path(), list[Exception]()
        self._async_save, self._finalize = handler.async_save, handler.finalize
        handler.async_save, handler.finalize = self.async_save, self.finalize

    def begin(self, mark: Path) -> None:
        """Forget what went wrong before; `mark` is made once this process's part is written."""
        self._mark, self._held = mark, list[Exception]()

    async def async_save(self, *args: Any, **kwargs: Any) -> list[_HeldFuture]:
        """See `PyTreeCheckpointHandler.async_save`."""
        futures: Sequence[Any] = ()
        with self.held():
            futures = await self._async_save(*args, **kwargs) or ()
        return [_HeldFuture(self, futures)]

    def finalize(self, directory: Any) -> None:
        """See `PyTreeCheckpointHandler.finalize`."""
        with self.held():
            self._finalize(directory)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep an error for `raise_held`."""
        try:
            yield
        except Exception as error:
            self._held.append(error)

    def part_is_written(self) -> None:
        """Make the mark, unless something went wrong."""
        with self.held():
            if not self._held:
                self._mark.touch()

    def raise_held(self) -> None:
        """Raise the first error that was kept."""
        if self._held:
            raise self._held[0]


@dataclass(frozen=True)
class _HeldFuture:
    """What Orbax waits for."""

    errors: _HeldErrors
    futures: Sequence[Any]

    def result(self, timeout: float | None = None) -> None:
        """Wait for all of them, each for so many seconds at most."""
        for future in self.futures:
            with self.errors.held():
                future.result(timeout=timeout)
        self.errors.part_is_written()

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


@dataclass(frozen=True)
class CopiedState:
    """The state copied on the device, where no step changes it."""

    saver: JaxSaver
    folder: Path
    leaves: Leaves
    """By tree and canonical name, in the model's layout."""
    counts: Mapping[str, np.ndarray]
    """int64 scalars, see `step_counts`."""

    @property
    def writer(self) -> Mapping[str, str]:
        """See `anatobench.engine.PendingSave.writer`."""
        return {"form": ORBAX, "version": version("orbax-checkpoint")}

    def finish(self) -> None:
        """See `anatobench.engine.PendingSave.finish`."""
        self.saver.write(self)


class JaxSaver:
    """Orbax's `AsyncCheckpointer`: every process writes its own part of every array, also of those that are whole on
    all of them, and nobody gathers anything."""

    def __init__(
        self,
        current: Callable[[], TrainState],
        table: Sequence[Entry],
        group_of: Callable[[str], str],
        mesh: Mesh,
        precision: Precision,
        processes: Processes,
    ) -> None:
        self._current, self._table, self._group_of = current, table, group_of
        self._mesh, self._precision = mesh, precision
        # Named processes meet at the coordinator. Left out they would meet by an operation of the devices, which may
        # come between those of a step in another order than in the other processes.
        together = ocp.options.MultiprocessingOptions(active_processes=set(range(processes.count)))
        # Without compression, which finds nothing in random weights; the size on disk then bounds what is read.
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False, multiprocessing_options=together)
        self._errors = _HeldErrors(handler)
        self._processes = processes
        self._checkpointer = ocp.AsyncCheckpointer(
            handler, timeout_secs=max(1, round(processes.collective_timeout)), multiprocessing_options=together
        )

    def begin(self, folder: Path) -> CopiedState:
        """See `anatobench.engine.StateSaver.begin`."""
        state = self._current()
        named = list(_named(self._table, state))
        (device,) = self._mesh.local_devices
        copies = jax.device_put([array.addressable_data(0) for *_, array in named], device, may_alias=False)
        leaves: Leaves = {}
        for (tree, name, entry, _), copy in zip(named, copies, strict=True):
            leaves.setdefault(tree, {})[name] = (entry, copy)
        return CopiedState(self, folder, leaves, step_counts(self._table, state.optimizer, self._group_of))

    def close(self) -> None:
        """See `anatobench.engine.StateSaver.close`."""
        self._checkpointer.close()

    def write(self, state: CopiedState) -> None:
        """Bring the copies into the canonical layout, one by one, and write them; errors as `PendingSave.finish`."""
        with self._precision.applied():
            trees: dict[str, dict[str, Any]] = {"optimizer": dict(state.counts)}
            for tree, leaves in state.leaves.items():
                for name in list(leaves):  # popped: the copy in the model's layout goes as soon as it is turned
                    trees.setdefault(tree, {})[name] = self._canonical(tree, name, *leaves.pop(name))
            own_part = state.folder / WHOLE_PART.format(self._processes.index)
            try:
                with _told_once():
                    self._errors.begin(own_part)
                    self._checkpointer.save(state.folder.absolute() / ORBAX, args=ocp.args.PyTreeSave(trees))
                    self._checkpointer.wait_until_finished()
                    self._errors.raise_held()
            except Exception as error:
                if self._processes.leads and own_part.exists():  # then Orbax may only miss what another could not write
                    self._ask_for_every_part(state.folder)
                raise _disks_own(error) from error
            if self._processes.leads:
                self._ask_for_every_part(state.folder)

    def _ask_for_every_part(self, folder: Path) -> None:
        """`AnatoBenchError` if some process could not write its part, which its own message explains."""
        parts = [folder / WHOLE_PART.format(index) for index in range(self._processes.count)]
        missing = [str(index) for index, part in enumerate(parts) if not part.exists()]
        if missing:
            whose = f"process {', '.join(missing)} of {self._processes.count}"
            raise AnatoBenchError(
                f"{whose} could not write its part of {folder} and says why; earlier checkpoints are intact"
            )
        for part in parts:
            part.unlink()

    def _canonical(self, tree: str, name: str, entry: Entry, array: jax.Array) -> jax.Array:
        """Return the global array in the canonical layout; `NotFiniteError` if it is not finite."""
        if not np.isfinite(np.asarray(array)).all():
            raise NotFiniteError(tree, name)
        turned = array.transpose(np.argsort(entry.permutation))
        return jax.make_array_from_single_device_arrays(turned.shape, parallel.whole(self._mesh), [turned])


def _named(table: Sequence[Entry], state: TrainState) -> Iterator[tuple[str, str, Entry, jax.Array]]:
    """Yield every array of `anatobench.engine.Trainable.state` but step counts: tree, name, entry, the model's own."""
    models = {"model": (state.parameters, state.statistics)}
    if state.teacher is not None:
        models["teacher"] = state.teacher
    for tree, model in models.items():
        for entry in table:
            yield tree, entry.name, entry, array_at(model[entry.buffer], entry.path)
    for moment, arrays in (("exp_avg", state.optimizer.first), ("exp_avg_sq", state.optimizer.second)):
        for entry in table:
            if not entry.buffer:
                yield "optimizer", f"{moment}/{entry.name}", entry, array_at(arrays, entry.path)


@contextmanager
def _told_once() -> Iterator[None]:
    """Let an error be raised and nothing else. Orbax also logs it with its stack; and its other parts, which were still
    being written, end without anybody who asks how: asyncio logs each, and Python prints those whose event loop is
    gone. What is left of them when the error is raised is collected here, what ends later is silent too."""
    absl, tasks, print_unraisable = logging.getLogger("absl"), logging.getLogger("asyncio"), sys.unraisablehook

    def hook(unraisable: UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed" and not _is_orbax(unraisable.object):
            print_unraisable(unraisable)

    before, absl.disabled, sys.unraisablehook = absl.disabled, True, hook
    tasks.addFilter(_not_of_orbax)
    try:
        yield
        sys.unraisablehook = print_unraisable
        tasks.removeFilter(_not_of_orbax)
    except Exception:
        gc.collect()
        raise
    finally:
        absl.disabled = before


def _is_orbax(coroutine: object) -> bool:
    """Return whether an object is a coroutine that Orbax's code defines."""
    return isinstance(coroutine, CoroutineType) and f"{os.sep}orbax{os.sep}" in coroutine.cr_code.co_filename


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Return whether a record of asyncio's, which names task and error in its text alone, is of other writes."""
    said = record.getMessage()
    return f"{os.sep}orbax{os.sep}" not in said and not _SYSTEM_ERROR.search(said)


def _disks_own(error: Exception) -> Exception:
    """Return what the disk said, as OSError; the error itself if the disk said nothing."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen
        if named := _SYSTEM_ERROR.search(str(seen)):
            return OSError(int(named["number"]), os.strerror(int(named["number"])))
        seen = seen.__cause__ or seen.__context__
    return error
