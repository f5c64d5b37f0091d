"""The fused attentions of the JAX port against the plain ones, in float64, gradients included; and what a GPU's kernel
would be given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anatobench.tasks import Size
from jax_impl.layers import attention as attention_module
from jax_impl.layers.attention import attention, fused_attention
from jax_impl.layers.window_attention import MASKED, WindowAttention, fitted_window, mask_columns, shift_regions

RNG = np.random.default_rng(0)


def outputs_and_gradients(function: Callable[..., jax.Array], arrays: tuple[Any, ...]) -> Any:
    """Return the output and the gradients of a fixed random weighting of it, by every argument."""

    def weighted(*arrays: jax.Array) -> Any:
        y = function(*arrays)
        return (y * jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum(), y

    gradients, y = jax.grad(weighted, tuple(range(len(arrays))), has_aux=True)(*arrays)
    return y, gradients


def assert_equal_in_float64(fast: Any, plain: Any, arrays: tuple[np.ndarray, ...]) -> None:
    with jax.enable_x64(True):
        given = tuple(map(jnp.asarray, arrays))
        found, expected = (jax.jit(partial(outputs_and_gradients, f))(given) for f in (fast, plain))
        found, expected = jax.tree.map(np.asarray, (found, expected))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11)


CASES = [
    pytest.param((2,), 13, 9, 5, 5, id="odd-lengths"),
    pytest.param((2,), 16, 8, 8, 8, id="nothing-missing"),
    pytest.param((2,), 3, 9, 7, 5, id="mark-in-the-last-column"),
    pytest.param((2,), 9, 11, 8, 8, id="mark-in-columns-of-its-own"),
    pytest.param((1,), 9, 17, 129, 96, id="abdomen"),
    pytest.param((1,), 5, 3, 2, 11, id="values-wider-than-keys"),
    pytest.param((2, 3), 15, 15, 6, 6, id="windows"),
]


@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("batch", "queries", "keys", "width", "outputs"), CASES)
def test_fused_attention(batch: Size, queries: int, keys: int, width: int, outputs: int, biased: bool) -> None:
    heads = 2
    shapes: list[tuple[int, ...]] = [
        (*batch, queries, heads, width),
        (*batch, keys, heads, width),
        (*batch, keys, heads, outputs),
    ]
    shapes += [(heads, queries, keys)] if biased else []
    arrays = tuple(RNG.standard_normal(shape) for shape in shapes)
    assert_equal_in_float64(fused_attention, attention, arrays)


# From the paper's sizes: MViT's queries and keys at a block's input, columns and head; Swin's windows with mask.
FULL_SIZE = [
    pytest.param((4, 55297, 1, 126), (4, 865, 1, 126), 96, None, 128, id="mvit-chest"),
    pytest.param((2, 84481, 1, 129), (2, 1321, 1, 129), 96, None, 136, id="mvit-abdomen"),
    pytest.param((6, 49, 294, 3, 40), (6, 49, 294, 3, 40), 32, (3, 294, 294), 40, id="swin-chest"),
    pytest.param((2, 98, 343, 3, 40), (2, 98, 343, 3, 40), 32, (3, 343, 343), 48, id="windows-of-odd-length"),
]


@pytest.mark.parametrize(("queries", "keys", "outputs", "bias", "columns"), FULL_SIZE)
def test_what_cudnn_is_given(
    queries: Size, keys: Size, outputs: int, bias: Size | None, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shapes alone. Its conditions: a multiple of 8 columns, the same for all three; even lengths beside a bias."""
    given: list[Any] = []

    def record(*arrays: Any) -> jax.Array:
        given.extend(arrays)
        return attention(*arrays)

    monkeypatch.setattr(attention_module, "cudnn_attends", lambda columns, dtype: columns <= 256)
    monkeypatch.setattr(attention_module, "_cudnn_attention", record)
    shapes = [queries, keys, (*keys[:-1], outputs), *([] if bias is None else [bias])]
    found = jax.eval_shape(fused_attention, *(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes))
    assert found.shape == (*queries[:-1], outputs)
    assert found.dtype == jnp.bfloat16
    q, k, v, b = given
    assert q.ndim == k.ndim == v.ndim == 4
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] == columns
    multiple = 8 if bias is None else 2
    assert q.shape[1] % multiple == k.shape[1] % multiple == 0
    assert k.shape == v.shape
    if bias is not None:
        assert b.shape == (1, bias[0], q.shape[1], k.shape[1])


@pytest.mark.parametrize(
    ("backend", "dtype", "columns", "capability", "expected"),
    [
        ("gpu", jnp.bfloat16, 136, "9.0", True),
        ("gpu", jnp.bfloat16, 136, "8.0", False),
        ("gpu", jnp.float16, 128, "8.0", True),
        ("gpu", jnp.bfloat16, 264, "10.0", False),
        ("gpu", jnp.float32, 64, "9.0", False),
        ("cpu", jnp.bfloat16, 64, "9.0", False),
    ],
)
def test_when_cudnn_attends(
    backend: str, dtype: Any, columns: int, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Device:
        compute_capability = capability

        class client:  # noqa: N801
            platform_version = "PJRT C API cuda 13000"

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert attention_module.cudnn_attends(columns, dtype) == expected


def test_absent_keys_weigh_nothing_in_bfloat16() -> None:
    """And large values behind them would be seen."""
    q, k, v = (jnp.asarray(RNG.standard_normal((1, 9, 1, 8)), jnp.bfloat16) for _ in range(3))
    # Keys so unlike the queries that an absent key, whose product is 0, would win without its mark.
    found = fused_attention(jnp.abs(q) * 10, -jnp.abs(k) * 10, v)
    np.testing.assert_allclose(
        found.astype(np.float32), attention(jnp.abs(q) * 10, -jnp.abs(k) * 10, v).astype(np.float32), atol=0.02
    )


# Swin's windows

WINDOW, SHIFT = (8, 5, 5), (4, 2, 2)


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((16, 10, 15), WINDOW, SHIFT), ((6, 10, 10), (6, 5, 5), (0, 2, 2))]
)
def test_mask_columns_give_the_mask_exactly(size: Size, window: Size, shift: Size) -> None:
    regions = shift_regions(size, window, shift)
    for_queries, for_keys = mask_columns(regions)
    assert for_queries.shape == (*regions.shape, 8)
    expected = np.where(regions[:, :, None] == regions[:, None], 0.0, MASKED)
    np.testing.assert_array_equal(np.einsum("wqc,wkc->wqk", for_queries, for_keys), expected)
    np.testing.assert_array_equal(for_queries.astype(jnp.bfloat16).astype(np.float32), for_queries)
    assert (expected != 0).any()


@pytest.mark.parametrize("shift", [(0, 0, 0), SHIFT], ids=["straight", "shifted"])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((10, 6, 7), id="padded-on-all-axes"),
        pytest.param((3, 7, 5), id="odd-windows"),
        pytest.param((8, 3, 2), id="window-covers-the-map"),
    ],
)
def test_fused_window_attention(size: Size, shift: Size) -> None:
    """The whole layer, by the gradients of its input and of all its parameters."""
    layers = [
        WindowAttention(8, 2, WINDOW, shift, deviation=0.5, dtype=jnp.float64, fast=fast,
                        generator=np.random.default_rng(1))
        for fast in (False, True)
    ]  # fmt: skip
    x = RNG.standard_normal((2, *size, 8))
    found = []
    with jax.enable_x64(True):
        for layer in layers:
            graph, state = nnx.split(layer)
            tree = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), nnx.to_pure_dict(state))

            def call(tree: Any, x: jax.Array, graph: Any = graph) -> jax.Array:
                result: jax.Array = nnx.merge(graph, tree)(x)
                return result

            found.append(jax.jit(partial(outputs_and_gradients, call))((tree, jnp.asarray(x))))
        plain, fast = jax.tree.map(np.asarray, found)
    window, fitted = fitted_window(size, WINDOW, shift)
    assert any(fitted) == (any(shift) and window != size)
    for ours, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
