"""GPU kernels of the depthwise 3x3x3 convolution, in Pallas (by way of Triton): forward and both gradients.

Arrays are flat to the kernels, and positions are computed: so any size works, with what lies outside masked. A program
has a block of positions by a block of channels, both powers of two, and goes over the 27 taps. Products and sums are
in float32 at least. `interpret` runs the same programs on a CPU, slowly, for the tests.

Where a batch is shared out over devices, each device's programs work on its own cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton as plgpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anatobench.tasks import Size

POSITIONS = 32
"""Of a block."""
WIDEST = 64
"""Channels of a block at most."""
CHUNK = 1024
"""Positions whose part of the kernel's gradient one program adds up."""
TAPS = 27
LARGEST = 2**31 - 1
"""Elements that an array may have: positions are int32."""

Places = tuple[jax.Array, jax.Array, jax.Array]
"""Depth, row and column of every position of a block."""


def convolve(x: jax.Array, kernel: jax.Array, stride: Size, size: Size, interpret: bool) -> jax.Array:
    """x [B, D, H, W, C], kernel [3, 3, 3, C] to [B, *size, C]."""

    def read(places: Places, tap: Places) -> tuple[Places, jax.Array]:
        found = [place * step + offset - 1 for place, step, offset in zip(places, stride, tap, strict=True)]
        return _three(found), _inside(found, x.shape[1:4])

    call = partial(_sum_of_taps, size=size, read=read, interpret=interpret)
    return _shared_out(call, "b d h w c, i j k c -> b e f g c")(x, kernel)


def input_gradient(gradient: jax.Array, kernel: jax.Array, stride: Size, size: Size, interpret: bool) -> jax.Array:
    """gradient [B, D', H', W', C] of the output to that of the input, [B, *size, C]: each position gathers from the
    outputs that read it."""

    def read(places: Places, tap: Places) -> tuple[Places, jax.Array]:
        ahead = [place + 1 - offset for place, offset in zip(places, tap, strict=True)]
        found = [lax.div(place, jnp.int32(step)) for place, step in zip(ahead, stride, strict=True)]
        exact = [place == position * step for place, position, step in zip(ahead, found, stride, strict=True)]
        # What is negative is divided towards 0: where exact, its quotient is negative too.
        return _three(found), exact[0] & exact[1] & exact[2] & _inside(found, gradient.shape[1:4])

    call = partial(_sum_of_taps, size=size, read=read, interpret=interpret)
    return _shared_out(call, "b d h w c, i j k c -> b e f g c")(gradient, kernel)


def kernel_gradient(x: jax.Array, gradient: jax.Array, stride: Size, interpret: bool) -> jax.Array:
    """[3, 3, 3, C] in float32 at least. A program adds up one tap over a chunk of positions; the chunks' parts are
    written and summed, so that the result is the same to the bit in every run."""
    call = partial(_parts_of_kernel_gradient, stride=stride, interpret=interpret)
    return _shared_out(call, "b d h w c, b e f g c -> b s i j k c")(x, gradient).sum((0, 1))


def _parts_of_kernel_gradient(x: jax.Array, gradient: jax.Array, *, stride: Size, interpret: bool) -> jax.Array:
    """[B, chunks, 3, 3, 3, C]"""
    batch, *size, channels = gradient.shape
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    width, chunks = _block_of(channels), pl.cdiv(prod(size), CHUNK)

    def program(x_ref: jax.Ref, gradient_ref: jax.Ref, parts_ref: jax.Ref) -> None:
        chunk = pl.program_id(0)
        case, tap = lax.div(pl.program_id(2), jnp.int32(TAPS)), lax.rem(pl.program_id(2), jnp.int32(TAPS))
        columns = pl.program_id(1) * width + jnp.arange(width, dtype=jnp.int32)

        def add_block(block: jax.Array, total: jax.Array) -> jax.Array:
            position = chunk * CHUNK + block * POSITIONS + jnp.arange(POSITIONS, dtype=jnp.int32)
            places = _places(position, size)
            found = [p * step + offset - 1 for p, step, offset in zip(places, stride, _offsets(tap), strict=True)]
            known = position < prod(size)
            seen = _load(x_ref, x.shape, case, _three(found), columns, known & _inside(found, x.shape[1:4]))
            slope = _load(gradient_ref, gradient.shape, case, places, columns, known)
            return total + seen.astype(accumulate) * slope.astype(accumulate)

        zeros = jnp.zeros((POSITIONS, width), accumulate)
        total = lax.fori_loop(jnp.int32(0), jnp.int32(CHUNK // POSITIONS), add_block, zeros)
        at = ((case * chunks + chunk) * TAPS + tap) * channels + columns
        plgpu.store(parts_ref.at[at], total.sum(0), mask=columns < channels)

    parts: jax.Array = pl.pallas_call(
        program,
        out_shape=jax.ShapeDtypeStruct((batch * chunks * TAPS * channels,), accumulate),
        grid=(chunks, pl.cdiv(channels, width), batch * TAPS),
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(num_warps=4),
        name="depthwise_kernel_gradient",
    )(x.reshape(-1), gradient.reshape(-1))
    return parts.reshape(batch, chunks, 3, 3, 3, channels)


def _shared_out(call: Callable[[jax.Array, jax.Array], jax.Array], axes: str) -> Callable[..., jax.Array]:
    """`call` on each device for the cases that it has, the axis `b` of `axes` (named as for `def_partition`). XLA sees
    nothing of a kernel's inside: by itself it would gather the whole batch on every device."""

    def partition(mesh: Mesh, arrays: Sequence[Any], result: Any) -> tuple[Any, ...]:
        (cases, *_) = arrays[0].sharding.spec or (None,)
        *taken, given = (
            NamedSharding(mesh, PartitionSpec(cases) if names.startswith("b ") else PartitionSpec())
            for names in (*axes.split(" -> ")[0].split(", "), axes.split(" -> ")[1])
        )
        return mesh, call, given, tuple(taken)

    shared_out = custom_partitioning(lambda *arrays: call(*arrays))  # which takes no functions with keywords
    shared_out.def_partition(partition, sharding_rule=axes)
    return shared_out


def _sum_of_taps(
    x: jax.Array,
    kernel: jax.Array,
    *,
    size: Size,
    read: Callable[[Places, Places], tuple[Places, jax.Array]],
    interpret: bool,
) -> jax.Array:
    """[B, *size, C]: over the taps, the kernel times x where `read` says for a position and a tap, 0 where it says that
    there is nothing."""
    batch, channels = x.shape[0], x.shape[-1]
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    width = _block_of(channels)

    def program(x_ref: jax.Ref, kernel_ref: jax.Ref, y_ref: jax.Ref) -> None:
        position = pl.program_id(0) * POSITIONS + jnp.arange(POSITIONS, dtype=jnp.int32)
        columns = pl.program_id(1) * width + jnp.arange(width, dtype=jnp.int32)
        case, places, known = pl.program_id(2), _places(position, size), position < prod(size)

        def add_tap(tap: jax.Array, total: jax.Array) -> jax.Array:
            found, there = read(places, _offsets(tap))
            seen = _load(x_ref, x.shape, case, found, columns, known & there)
            weight = plgpu.load(kernel_ref.at[tap * channels + columns], mask=columns < channels, other=0)
            return total + seen.astype(accumulate) * weight.astype(accumulate)[None]

        zeros = jnp.zeros((POSITIONS, width), accumulate)
        total = lax.fori_loop(jnp.int32(0), jnp.int32(TAPS), add_tap, zeros)
        at = (case * prod(size) + position)[:, None] * channels + columns
        plgpu.store(y_ref.at[at], total.astype(x.dtype), mask=known[:, None] & (columns < channels))

    y: jax.Array = pl.pallas_call(
        program,
        out_shape=jax.ShapeDtypeStruct((batch * prod(size) * channels,), x.dtype),
        grid=(pl.cdiv(prod(size), POSITIONS), pl.cdiv(channels, width), batch),
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(num_warps=4),
        name="depthwise_sum_of_taps",
    )(x.reshape(-1), kernel.reshape(-1))
    return y.reshape(batch, *size, channels)


def _load(
    ref: jax.Ref, shape: Sequence[int], case: jax.Array, places: Places, columns: jax.Array, there: jax.Array
) -> jax.Array:
    """[positions, columns] of an array [B, D, H, W, C] that is flat, 0 where nothing is `there`."""
    _, depth, height, width, channels = shape
    row = ((case * depth + places[0]) * height + places[1]) * width + places[2]
    at = row[:, None] * channels + columns
    return plgpu.load(ref.at[at], mask=there[:, None] & (columns < channels), other=0)


def _block_of(channels: int) -> int:
    return min(WIDEST, pl.next_power_of_2(channels))


def _places(position: jax.Array, size: Sequence[int]) -> Places:
    _, height, width = size
    row = lax.div(position, jnp.int32(width))
    return lax.div(row, jnp.int32(height)), lax.rem(row, jnp.int32(height)), lax.rem(position, jnp.int32(width))


def _offsets(tap: jax.Array) -> Places:
    return _places(tap, (3, 3, 3))


def _inside(places: Sequence[jax.Array], size: Sequence[int]) -> jax.Array:
    within = [(place >= 0) & (place < length) for place, length in zip(places, size, strict=True)]
    return within[0] & within[1] & within[2]


def _three(places: Sequence[jax.Array]) -> Places:
    depth, row, column = places
    return depth, row, column
