"""Several processes, one device each, that train one model as if they were one: torch.distributed.

Every process has the whole model and a part of each global batch. Gradients are averaged (DistributedDataParallel),
BatchNorm's statistics are those of the global batch, and so are the figures of a step.
"""

from __future__ import annotations

import inspect
import time
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anatobench.system.processes import Processes, meet
from torch_ref.layers.batch_norm import GlobalBatchNorm3d

Model = TypeVar("Model", bound=nn.Module)


def join(processes: Processes) -> torch.device:
    """Meet the other processes; this one's device. `AnatoBenchError` if they do not come within the timeout."""
    if not torch.cuda.is_available():
        device = torch.device("cpu")
    else:  # a launcher may show each process one GPU alone, or all of the node's
        device = torch.device("cuda", processes.local_index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if not processes.alone and not dist.is_initialized():
        meet(processes)
        timeout, patience = (timedelta(seconds=s) for s in (processes.timeout, processes.collective_timeout))
        host, _, port = processes.coordinator.rpartition(":")
        # Not by a tcp:// address: under torchrun older versions of PyTorch take every such address for the agent's, and
        # nobody would listen.
        store = dist.TCPStore(host.strip("[]"), int(port), processes.count, processes.leads, timeout)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=processes.index,
            world_size=processes.count,
            timeout=patience,
        )
        store.set_timeout(patience)  # NCCL asks it for its own keys, at the first collective
    return device


def leave(processes: Processes) -> None:
    """Part from the other processes. A model in `DistributedDataParallel` must be gone by then."""
    if not processes.alone and dist.is_initialized():
        dist.destroy_process_group()


def distributed(model: nn.Module, device: torch.device, processes: Processes) -> nn.Module:
    """Return the model itself where the process is alone, else one whose backward pass averages gradients over all."""
    if processes.alone:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    # BatchNorm's running values are equal already. (The option's name before PyTorch 2.14, and since.)
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    buffers: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **buffers,
    )


def with_global_batch_norm(model: Model, device: torch.device, processes: Processes, compiling: bool) -> Model:
    """Return the model with BatchNorm over the global batch: PyTorch's kernels where a GPU is given operation by
    operation, arithmetic that the compiler fuses everywhere else."""
    if processes.alone:
        return model
    if device.type == "cuda" and not compiling:
        return cast(Model, nn.SyncBatchNorm.convert_sync_batchnorm(model))
    for module in model.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = GlobalBatchNorm3d
    return model


def mean_of_all(values: Tensor, processes: Processes) -> Tensor:
    """Return the mean over all processes of a small tensor on the device, of the same shape in all of them."""
    if not processes.alone:
        dist.all_reduce(values)
        values = values / processes.count
    return values


def all_reduce_seconds(elements: int, repeats: int, device: torch.device, processes: Processes) -> list[float]:
    """See `anatobench.engine.Collective.all_reduce_seconds`. The first one connects, and does not count."""
    values, seconds = torch.empty(elements, device=device), []
    for _ in range(1 + repeats):
        values.fill_(1.0)
        gather(np.zeros(1), device, processes)  # nobody is late for what is timed
        began = time.perf_counter()
        dist.all_reduce(values)
        values[-1].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def gather(array: np.ndarray, device: torch.device, processes: Processes) -> np.ndarray:
    """[count, ...]: every process's array of the same shape and type, in order."""
    if processes.alone:
        return array[None].copy()
    content = torch.from_numpy(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()).to(device)
    parts = [torch.empty_like(content) for _ in range(processes.count)]
    dist.all_gather(parts, content)
    joined = b"".join(part.cpu().numpy().tobytes() for part in parts)
    return np.frombuffer(joined, array.dtype).reshape(processes.count, *array.shape).copy()
