"""A run's state on its way to the disk: copied to host memory between two steps, written from there beside the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from anatobench.system.processes import Processes
from anatobench.system.state_files import check_finite, safetensors_writer, write_trees
from torch_ref.step import TrainState
from torch_ref.weights import named_tensors, optimizer_tensors

_ALIGNMENT = 64
"""Bytes: what a copy likes, and more than any type needs."""
Trees = Mapping[str, Mapping[str, Tensor]]
"""By tree and canonical name, in torch's layouts, which are the canonical ones."""


@dataclass(frozen=True)
class CopiedState:
    """The state in host memory, or on its way there."""

    folder: Path
    trees: Trees
    """In canonical form, contiguous."""
    copied: torch.cuda.Event | None
    """Comes when the device has copied everything; None where it has already."""

    @property
    def writer(self) -> Mapping[str, str]:
        """See `anatobench.engine.PendingSave.writer`."""
        return safetensors_writer()

    def finish(self) -> None:
        """See `anatobench.engine.PendingSave.finish`."""
        if self.copied is not None:
            self.copied.synchronize()
        arrays = {tree: {name: host.numpy() for name, host in hosts.items()} for tree, hosts in self.trees.items()}
        check_finite(arrays)
        write_trees(self.folder, arrays)


class TorchSaver:
    """Keeps one buffer on the host as large as the state, pinned where there is a GPU: its copies then take no time of
    the program's, only of the device's, before the next step's.

    Every process has the whole state, and the one that leads writes it.
    """

    def __init__(self, state: TrainState, device: torch.device, processes: Processes) -> None:
        self._state, self._device, self._writes = state, device, processes.leads
        self._hosts: dict[str, dict[str, Tensor]] = {}
        if self._writes:
            self._hosts = _views_of_one_buffer(state_tensors(state), pinned=device.type == "cuda")

    @torch.no_grad()
    def begin(self, folder: Path) -> CopiedState:
        """See `anatobench.engine.StateSaver.begin`."""
        if not self._writes:
            return CopiedState(folder, {}, None)
        trees: dict[str, dict[str, Tensor]] = {}
        for tree, tensors in state_tensors(self._state).items():
            hosts, trees[tree] = self._hosts[tree], {}
            for name, tensor in tensors.items():
                # A step count of a parameter alone is of a few bytes and comes only where phases differ.
                host = hosts[name] if name in hosts else torch.empty_like(tensor, device="cpu")
                trees[tree][name] = host.copy_(tensor, non_blocking=True)
        copied = None
        if self._device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        return CopiedState(folder, trees, copied)

    def close(self) -> None:
        """See `anatobench.engine.StateSaver.close`."""
        self._hosts = {}


def state_tensors(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """Return `anatobench.engine.Trainable.state`, in canonical form, as tensors that share memory with the state."""
    trees = {"model": named_tensors(state.model), "optimizer": optimizer_tensors(state.model, state.optimizer)}
    if state.teacher is not None:
        trees["teacher"] = named_tensors(state.teacher)
    return trees


def _views_of_one_buffer(trees: Trees, pinned: bool) -> dict[str, dict[str, Tensor]]:
    """Return tensors of the same names, types and shapes, contiguous, side by side in memory that the system has
    given."""
    places = dict(_places(trees))
    size = max((place + _padded(tensor) for place, tensor in places.values()), default=0)
    buffer = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
    hosts: dict[str, dict[str, Tensor]] = {}
    for (tree, name), (place, tensor) in places.items():
        part = buffer[place : place + prod(tensor.shape) * tensor.element_size()]
        hosts.setdefault(tree, {})[name] = part.view(tensor.dtype).view(tensor.shape)
    return hosts


def _places(trees: Trees) -> Iterator[tuple[tuple[str, str], tuple[int, Tensor]]]:
    place = 0
    for tree, tensors in trees.items():
        for name, tensor in tensors.items():
            yield (tree, name), (place, tensor)
            place += _padded(tensor)


def _padded(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
