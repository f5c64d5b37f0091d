"""Memory is used again, and never while anything still looks at it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from anatobench.system.recycled_memory import RecycledMemory

SHAPE = (2, 3, 4)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_for_arrays_of_the_same_size() -> None:
    memory = RecycledMemory()
    first = memory.empty(SHAPE, np.int16)
    place = address(first)
    del first
    again = memory.empty((4, 6), np.int16)
    assert address(again) == place
    assert again.shape == (4, 6)
    assert again.flags.c_contiguous
    assert again.flags.writeable
    assert address(memory.empty((4, 7), np.int16)) != place


@pytest.mark.parametrize(
    "look",
    [
        lambda array: array,
        lambda array: array[1],
        lambda array: array[:1][0].view(np.uint8).T,
        lambda array: memoryview(array)[1:],
        lambda array: {"volume": array[None]},
    ],
    ids=["itself", "row", "view of a view", "buffer", "in a dict"],
)
def test_what_somebody_looks_at_stays(look: Callable[[np.ndarray], object]) -> None:
    memory = RecycledMemory()
    array = memory.empty(SHAPE, np.int16)
    place = address(array)
    view = look(array)
    del array
    gc.collect()
    assert address(memory.empty(SHAPE, np.int16)) != place
    del view
    gc.collect()
    assert place in {address(array) for array in [memory.empty(SHAPE, np.int16) for _ in range(3)]}


def test_a_torch_tensor_keeps_its_memory() -> None:
    torch = pytest.importorskip("torch")
    memory = RecycledMemory()
    array = memory.empty((64, 1024), np.float32)
    array[:] = 7
    tensor = torch.from_numpy(array)[3:]
    del array
    memory.empty((64, 1024), np.float32)[:] = 0
    assert bool((tensor == 7).all())


def test_a_jax_array_keeps_its_memory() -> None:
    jax = pytest.importorskip("jax")
    memory = RecycledMemory()
    arrays = []
    for value in range(8):
        array = memory.empty((64, 1024), np.float32)
        array[:] = value
        arrays.append(jax.device_put(array))
        del array
    assert [float(array.max()) for array in arrays] == list(range(8)) == [float(array.min()) for array in arrays]
