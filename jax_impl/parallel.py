"""Several processes, one device each, that train one model as if they were one: jax.distributed.

Every process has the whole model and a part of each global batch. The compiled step is written for the global batch
and XLA shares it out over the mesh, so gradients, BatchNorm's statistics and the figures of a step are global.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from anatobench.errors import AnatoBenchError
from anatobench.system.processes import Processes, meet

CASES = "cases"
"""The mesh's one axis: batches are split along it, everything else is whole on every device."""
PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
"""Of the environment: JAX's own, by which a person says which devices it is to use."""
Tree = Any


def join(processes: Processes) -> Mesh:
    """Meet the other processes, before anything else touches a device; the mesh of everybody's devices in the order
    of the processes. `AnatoBenchError` if they do not come within the timeout, or if JAX has no device it may use."""
    if processes.alone:
        with _devices_found():
            return Mesh(np.array(jax.devices()[:1]), (CASES,))
    if not jax.distributed.is_initialized():
        meet(processes)  # JAX itself would end the process, with a stack of C++ frames, if somebody is missing
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        seconds = max(10, round(processes.timeout))
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.index,
            local_device_ids=[processes.local_index % max(_visible_gpus(), 1)],
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=max(10, round(processes.collective_timeout)),
        )
    with _devices_found():
        gather(np.zeros(1), processes)  # connects everybody now, and not after compilations of unequal length
        return Mesh(np.array(jax.devices()), (CASES,))


@contextmanager
def _devices_found() -> Iterator[None]:
    """JAX looks for devices where it first needs one, and its failures are bugs to read (0.10.2: a bare assertion
    where JAX_PLATFORMS names CUDA and there is none)."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        variable = next((name for name in PLATFORM_VARIABLES if os.environ.get(name)), None)
        if variable is None:
            raise
        why = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
        raise AnatoBenchError(
            f"{variable}={os.environ[variable]}: JAX finds no such device here{f' ({why})' if why else ''}: look at "
            f"the driver and at --nv, or unset {variable} to take what there is"
        ) from None


def _visible_gpus() -> int:
    """Return how many GPUs the launcher shows this process: one alone, or all of the node's. Left to itself JAX
    takes the one of SLURM_LOCALID even of a single one."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(named.split(",") if named else list(Path("/dev").glob("nvidia[0-9]*")))


def leave(processes: Processes) -> None:
    """Part from the other processes."""
    if not processes.alone and jax.distributed.is_initialized():
        jax.distributed.shutdown()


def whole(mesh: Mesh) -> NamedSharding:
    """Keep the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_case(mesh: Mesh) -> NamedSharding:
    """Split the first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(CASES))


def place_whole(mesh: Mesh, array: np.ndarray, dtype: DTypeLike) -> jax.Array:
    """Return a copy on every device, of the same shape, each process giving the same array."""
    return jax.make_array_from_single_device_arrays(array.shape, whole(mesh), [_own_memory(mesh, array, dtype)])


def place_by_case(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """Return the global batch, of which each process gives its part [B / processes, ...]."""
    shape = (array.shape[0] * mesh.size, *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, by_case(mesh), [_own_memory(mesh, array, array.dtype)])


def _own_memory(mesh: Mesh, array: np.ndarray, dtype: DTypeLike) -> jax.Array:
    """On this process's device, in memory that nobody else has.

    The copy is numpy's: on a CPU JAX shares aligned memory of numpy's, also with `may_alias=False` (seen in 0.10.2).
    """
    (device,) = mesh.local_devices
    placed: jax.Array = jax.device_put(np.array(array, dtype, order="C"), device)
    return placed


def own_copy(tree: Tree) -> Tree:
    """Return what this process has of arrays that are whole on every device, for work in which the others take no
    part."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def own_part(array: jax.Array) -> np.ndarray:
    """Return this process's part [B / processes, ...] of an array [B, ...] that is split by case."""
    return np.array(array.addressable_data(0))


def all_reduce_seconds(elements: int, repeats: int, mesh: Mesh, processes: Processes) -> list[float]:
    """See `anatobench.engine.Collective.all_reduce_seconds`. The first one is compiled and connects, and does not
    count."""
    add_up = jax.jit(lambda values: values.sum(0), out_shardings=whole(mesh))
    values, seconds = place_by_case(mesh, np.ones((1, elements), np.float32)), list[float]()
    for _ in range(1 + repeats):
        gather(np.zeros(1), processes)  # nobody is late for what is timed
        began = time.perf_counter()
        jax.block_until_ready(add_up(values))
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def gather(array: np.ndarray, processes: Processes) -> np.ndarray:
    """[count, ...]: every process's array of the same shape and type, in order."""
    if processes.alone:
        return array[None].copy()
    content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    joined = np.asarray(multihost_utils.process_allgather(content)).tobytes()
    return np.frombuffer(joined, array.dtype).reshape(processes.count, *array.shape).copy()
