# ruff: noqa: N803, RUF005
# In a Triton kernel an annotation is an instruction to the compiler, sizes keep their capitals, tuples grow by "+".
"""Another form of the depthwise convolution's kernels, which walks along rows. Not measured: see depthwise_conv3d.WALK.

A program has ROWS pairs (d, h) of outputs and goes along W. What it read of the columns at w and w + 1 it needs again
one step later, so that of 27 neighbours it loads 9 (18 at stride 2). The kernel gradient takes all 27 taps in one pass
over x and the output's gradient, the other form makes 27: 0.4 GB of loads, not 2.3, for [4, 6, 96, 96, 96] in bf16.

Read off the code compiled for compute capability 9.0, at stride 1, instructions per output (of all 27 taps): forward
and input gradient 101, where the other form has 187; kernel gradient 98 against 445. At the rate that explains the
other form's 0.15 ms forward this is 0.08 ms each, where the bytes take 0.03.
"""

from __future__ import annotations

from typing import Any, no_type_check

from torch import Tensor

from anatobench.tasks import Size
from torch_ref.layers.triton_language import accumulator, blocks, jit, tl

TILE = 256
"""Rows times channels of a program: two elements per thread, of which 27 neighbours and 27 weights or sums fit into
registers (125 to 170 a thread, none spilled)."""
LENGTH, LENGTH_OF_GRADIENT = 24, 96
"""Outputs along W per program: forward wants programs, the gradient few sums to write."""


def walk(x: Tensor, kernel: Tensor, y: Tensor, stride: Size, block: int, *, mirrored: bool) -> None:
    """Write the convolution of x [B, D, H, W, C] into y; by the mirrored kernel it is its own input gradient at
    stride 1."""
    grid, constants = _grid(y, stride, block, LENGTH)
    _walk_kernel[grid](
        *(x, kernel, y, *x.shape[1:4], *y.shape[1:], *stride[:2], x[0].numel(), y[0].numel()),
        **{**constants, "HEAD": kernel.shape[3], "MIRRORED": mirrored},
    )


def walking_kernel_gradient(x: Tensor, gradient: Tensor, stride: Size, block: int) -> Tensor:
    """[blocks, 27, C]: sums over blocks of rows."""
    grid, constants = _grid(gradient, stride, block, LENGTH_OF_GRADIENT)
    partial = x.new_empty((x.shape[0] * grid[0], 27, x.shape[-1]), dtype=accumulator(x.dtype)[0])
    _walk_kernel_gradient_kernel[grid](
        *(x, gradient, partial, *x.shape[1:4], *gradient.shape[1:], *stride[:2], x[0].numel(), gradient[0].numel()),
        **constants,
    )
    return partial


def _grid(y: Tensor, stride: Size, block: int, length: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    batch, depth, height, width, channels = y.shape
    rows = TILE // block
    grid = (blocks(depth * height, rows) * blocks(width, length), blocks(channels, block), batch)
    return grid, {"SW": stride[2], "ROWS": rows, "BC": block, "LENGTH": length, "ACC": accumulator(y.dtype)[1]}


@jit
@no_type_check
def _column(x, od, oh, w, c, there, D, H, W, C, sd, sh, ACC: tl.constexpr):
    """Nine [ROWS, BC] at w: the neighbours in depth and height."""
    tiles = ()
    for t in tl.static_range(9):
        d, h = od * sd + t // 3 - 1, oh * sh + t % 3 - 1
        inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        offset = ((d * H + h) * W + w)[:, None] * C + c[None, :]
        tiles = tiles + (tl.load(x + offset, mask=there & inside[:, None], other=0.0).to(ACC),)
    return tiles


@jit
@no_type_check
def _first_columns(x, od, oh, w, c, there, D, H, W, C, sd, sh, SW: tl.constexpr, ACC: tl.constexpr):
    """Return what `_step` finds in its hands at the first w."""
    before = _column(x, od, oh, w - 1, c, there, D, H, W, C, sd, sh, ACC)
    right = before
    if SW == 1:
        right = _column(x, od, oh, w, c, there, D, H, W, C, sd, sh, ACC)
    return before, right


@jit
@no_type_check
def _step(middle, right, x, od, oh, w, c, there, D, H, W, C, sd, sh, SW: tl.constexpr, ACC: tl.constexpr):
    """Return the columns at w - 1, w, w + 1, from the last two of the step before."""
    if SW == 1:
        new_left = middle
        new_middle = right
    elif SW == 2:
        new_left = right
        new_middle = _column(x, od, oh, w, c, there, D, H, W, C, sd, sh, ACC)
    else:
        new_left = _column(x, od, oh, w - 1, c, there, D, H, W, C, sd, sh, ACC)
        new_middle = _column(x, od, oh, w, c, there, D, H, W, C, sd, sh, ACC)
    return new_left, new_middle, _column(x, od, oh, w + 1, c, there, D, H, W, C, sd, sh, ACC)


@jit
@no_type_check
def _walk_kernel(
    x, kernel, y, D, H, W, Do, Ho, Wo, C, sd, sh, x_case, y_case,
    SW: tl.constexpr, ROWS: tl.constexpr, BC: tl.constexpr, LENGTH: tl.constexpr, ACC: tl.constexpr,
    HEAD: tl.constexpr, MIRRORED: tl.constexpr,
):  # fmt: skip
    walks = tl.cdiv(Wo, LENGTH)
    row = tl.program_id(0) // walks * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(0) % walks * LENGTH
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    case = tl.program_id(2).to(tl.int64)
    x += case * x_case
    y += case * y_case
    there = (row < Do * Ho)[:, None] & (c < C)[None, :]
    od, oh = row // Ho, row % Ho
    weights = ()
    for tap in tl.static_range(27):
        place = kernel + (26 - tap if MIRRORED else tap) * HEAD + c % HEAD
        weights = weights + (tl.load(place, mask=c < C, other=0.0).to(ACC),)
    middle, right = _first_columns(x, od, oh, start * SW, c, there, D, H, W, C, sd, sh, SW, ACC)
    for ow in range(start, tl.minimum(start + LENGTH, Wo)):
        left, middle, right = _step(middle, right, x, od, oh, ow * SW, c, there, D, H, W, C, sd, sh, SW, ACC)
        total = tl.zeros((ROWS, BC), ACC)
        for t in tl.static_range(9):
            total += left[t] * weights[3 * t][None, :]
            total += middle[t] * weights[3 * t + 1][None, :]
            total += right[t] * weights[3 * t + 2][None, :]
        tl.store(y + (row * Wo + ow)[:, None] * C + c[None, :], total.to(y.dtype.element_ty), mask=there)


@jit
@no_type_check
def _walk_kernel_gradient_kernel(
    x, gradient, partial, D, H, W, Do, Ho, Wo, C, sd, sh, x_case, y_case,
    SW: tl.constexpr, ROWS: tl.constexpr, BC: tl.constexpr, LENGTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    walks = tl.cdiv(Wo, LENGTH)
    row = tl.program_id(0) // walks * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(0) % walks * LENGTH
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    case = tl.program_id(2).to(tl.int64)
    x += case * x_case
    gradient += case * y_case
    there = (row < Do * Ho)[:, None] & (c < C)[None, :]
    od, oh = row // Ho, row % Ho
    sums = ()
    for _tap in tl.static_range(27):
        sums = sums + (tl.zeros((ROWS, BC), ACC),)
    middle, right = _first_columns(x, od, oh, start * SW, c, there, D, H, W, C, sd, sh, SW, ACC)
    for ow in range(start, tl.minimum(start + LENGTH, Wo)):
        left, middle, right = _step(middle, right, x, od, oh, ow * SW, c, there, D, H, W, C, sd, sh, SW, ACC)
        g = tl.load(gradient + (row * Wo + ow)[:, None] * C + c[None, :], mask=there, other=0.0).to(ACC)
        new_sums = ()
        for t in tl.static_range(9):
            new_sums = new_sums + (
                sums[3 * t] + left[t] * g,
                sums[3 * t + 1] + middle[t] * g,
                sums[3 * t + 2] + right[t] * g,
            )
        sums = new_sums
    partial += (case * tl.num_programs(0) + tl.program_id(0)) * 27 * C
    for tap in tl.static_range(27):
        tl.store(partial + tap * C + c, tl.sum(sums[tap], 0), mask=c < C)
