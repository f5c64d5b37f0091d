# ruff: noqa: N803
# In a Triton kernel an annotation is an instruction to the compiler, and sizes keep their capitals.
"""Swin's attention within windows, with relative position bias and the mask of shifted windows, block by block.

No array of [windows, heads, n, n] exists in either direction: blocks of logits live in registers, and backward makes
them again from the logarithm of each row's sum (FlashAttention 2, Dao 2023). Of the bias gradient a program owns one
block, which it sums over a share of the windows; the shares are added up afterwards, in the same order every time.

Swin3D-T's first stage, batch 6, chest: 1,176 windows, 3 heads, n = 294, d = 32, bf16. By arithmetic for an H100:
queries, keys, values and output are 0.27 GB (0.08 ms), two matrix products 39 GFLOP (0.05 ms), 0.3 billion exponentials
0.09 ms, and the bias comes 1,176 times from the second-level cache (0.7 GB in bf16, 0.13 ms): some 0.3 ms forward, and
with nine products and three times the exponentials 1 ms backward. Not measured.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_ref.layers.triton_language import accumulator, blocks, jit, kernels_run_on, tl

MASKED = -100.0
"""Added between positions that are neighbours in a window only because of the cyclic shift: torchvision's value."""
BLOCK = 64
"""Queries, and keys, of a block of logits: 294 fills 5 of them to 92 %, 392 fills 7 to 88 %. Not measured."""
LAUNCHES = {2: {"num_warps": 4}, 4: {"num_warps": 8, "num_stages": 2}, 8: {"num_warps": 8, "num_stages": 1}}
"""By bytes of an element: what makes compute capabilities 8.0 and 9.0 spill next to no registers, in at most 100 KB of
shared memory for float32 (read off the compiled kernels; times were not measured)."""
LARGEST_GRID = 65535
"""Programs along the third axis of a launch (CUDA C++ Programming Guide); beyond, the plain form is taken."""
BIAS_PROGRAMS = 2048
"""Of the bias gradient, about: enough for 132 multiprocessors, with shares of some 30 MB together. Not measured."""


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v, the softmax in float32 at least; returns [windows, heads, n, d].

    q, k, v [windows, heads, n, d] in one type and of any strides, bias [heads, n, n]. `regions` int32
    [windows of a case, n] numbers the parts of each window that were neighbours before the cyclic shift: between
    different numbers the mask is -100. None: no mask. In memory the output is [windows, n, heads, d], as the projection
    behind it wants it; the gradients of q, k, v too. (Take q, k, v from their common layer by `unbind`, whose gradient
    is one copy.) `ValueError` for windows that are not whole cases.
    """
    if regions is not None and q.shape[0] % regions.shape[0]:
        raise ValueError(f"{q.shape[0]} windows are no whole cases of {regions.shape[0]}: pass the regions of one case")
    if not kernels_run_on(q) or q.shape[0] > LARGEST_GRID:
        return window_attention_plain(q, k, v, bias, regions)
    q, k, v = (part if part.stride(3) == 1 else part.contiguous() for part in (q, k, v))
    attended: Tensor = _window_attention(q, k, v, _padded(bias), regions)[0]
    return attended


def window_attention_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
    """Return the same, of the same shapes, with all logits [windows, heads, n, n] in memory."""
    sum_type = torch.promote_types(q.dtype, torch.float32)
    logits = (q @ k.transpose(-1, -2)).to(sum_type) * q.shape[-1] ** -0.5 + bias.to(sum_type)
    if regions is not None:
        mask = torch.where(regions[:, :, None] != regions[:, None, :], MASKED, 0.0).to(sum_type)
        logits = logits + mask.repeat(q.shape[0] // regions.shape[0], 1, 1)[:, None]
    return torch.softmax(logits, -1).to(v.dtype) @ v


def _padded(bias: Tensor) -> Tensor:
    """Whole blocks: no key beyond n has a weight; queries beyond n must be finite, and go nowhere."""
    extra = -bias.shape[2] % BLOCK
    return F.pad(F.pad(bias, (0, extra), value=-torch.inf), (0, 0, 0, extra)).contiguous()


@torch.library.custom_op("anatobench::window_attention", mutates_args=())
def _window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    windows, heads, n, _ = q.shape
    output, log_sums = _rows_before_heads(q), q.new_empty((windows, heads, n), dtype=accumulator(q.dtype)[0])
    _forward_kernel[(blocks(n, BLOCK), heads, windows)](
        *(q, k, v, bias, _or_empty(regions, q), output, log_sums, n, bias.shape[2], _windows_of_case(regions)),
        *(*_strides(q), *_strides(k), *_strides(v), *_strides(output)),
        **_constants(q, regions),
    )
    return output, log_sums


@_window_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    return _rows_before_heads(q), q.new_empty(q.shape[:3], dtype=accumulator(q.dtype)[0])


@torch.library.custom_op("anatobench::window_attention_backward", mutates_args=())
def _window_attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    regions: Tensor | None,
    output: Tensor,
    log_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradient = gradient if gradient.stride(3) == 1 else gradient.contiguous()
    windows, heads, n, _ = q.shape
    count, constants = blocks(n, BLOCK), _constants(q, regions)
    q_gradient, k_gradient, v_gradient = (_rows_before_heads(part) for part in (q, k, v))
    shares = max(1, min(windows, BIAS_PROGRAMS // (heads * count * count)))
    bias_shares = log_sums.new_empty((shares, *bias.shape))
    offsets = torch.empty_like(log_sums)  # a row's sum of probability x its gradient, made by the first kernel
    inputs = (
        q,
        k,
        v,
        bias,
        _or_empty(regions, q),
        gradient,
        log_sums,
        offsets,
        n,
        bias.shape[2],
        _windows_of_case(regions),
    )
    strides = (*_strides(q), *_strides(k), *_strides(v), *_strides(gradient))
    _query_gradient_kernel[(count, heads, windows)](
        *inputs, output, q_gradient, *strides, *_strides(output), *_strides(q_gradient), **constants
    )
    _key_value_gradient_kernel[(count, heads, windows)](
        *inputs, k_gradient, v_gradient, *strides, *_strides(k_gradient), *_strides(v_gradient), **constants
    )
    _bias_gradient_kernel[(count * count, heads, shares)](*inputs, bias_shares, windows, *strides, **constants)
    return q_gradient, k_gradient, v_gradient, bias_shares.sum(0).to(bias.dtype)


@_window_attention_backward.register_fake
def _(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    regions: Tensor | None,
    output: Tensor,
    log_sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _rows_before_heads(q), _rows_before_heads(k), _rows_before_heads(v), torch.empty_like(bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_window_attention_backward(gradient, *ctx.saved_tensors), None)


_window_attention.register_autograd(_backward, setup_context=_save)


def _rows_before_heads(x: Tensor) -> Tensor:
    """Return an empty tensor of x's shape [windows, heads, n, d] that lies as [windows, n, heads, d] in memory."""
    windows, heads, n, d = x.shape
    return x.new_empty((windows, n, heads, d)).transpose(1, 2)


def _strides(x: Tensor) -> tuple[int, ...]:
    return x.stride()[:3]


def _or_empty(regions: Tensor | None, like: Tensor) -> Tensor:
    """Return something to point at: a kernel wants a pointer even for what it does not read."""
    return like.new_empty(0, dtype=torch.int32) if regions is None else regions.contiguous()


def _windows_of_case(regions: Tensor | None) -> int:
    return 1 if regions is None else regions.shape[0]


def _constants(q: Tensor, regions: Tensor | None) -> dict[str, Any]:
    d = q.shape[-1]
    block_d = max(16, 1 << (d - 1).bit_length())  # 16 is the least that a tensor core's product takes
    constants = {"HEAD": d, "BLOCK": BLOCK, "BD": block_d, "SCALE": d**-0.5, "REGIONS": regions is not None}
    return {**constants, "MASKED": MASKED, "ACC": accumulator(q.dtype)[1], **LAUNCHES[q.itemsize]}


@jit
@no_type_check
def _rows(x, window, head, row, n, per_window, per_head, per_row, HEAD: tl.constexpr, BD: tl.constexpr):
    """[BLOCK, BD] of a window and head, zeros outside. Only a window's offset can pass 2**31 elements."""
    column = tl.arange(0, BD)
    there = (row < n)[:, None] & (column < HEAD)[None, :]
    offset = window * per_window + head * per_head
    return tl.load(x + offset + row[:, None] * per_row + column[None, :], mask=there, other=0.0)


@jit
@no_type_check
def _store(x, value, window, head, row, n, per_window, per_head, per_row, HEAD: tl.constexpr, BD: tl.constexpr):
    column = tl.arange(0, BD)
    there = (row < n)[:, None] & (column < HEAD)[None, :]
    offset = window * per_window + head * per_head
    pointers = x + offset + row[:, None] * per_row + column[None, :]
    tl.store(pointers, value.to(x.dtype.element_ty), mask=there)


@jit
@no_type_check
def _product(a, b, ACC: tl.constexpr):
    """float32 stays float32 (no TF32); less than that sums up in float32."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=ACC)


@jit
@no_type_check
def _bias_block(bias, head, row, column, padded, ACC: tl.constexpr):
    """Whole blocks of the padded bias, so that rows can be loaded 16 bytes at a time and nothing is compared."""
    return tl.load(bias + (head * padded + row[:, None]) * padded + column[None, :]).to(ACC)


@jit
@no_type_check
def _logits(
    q, k, bias_block, regions, window, row, column, n, windows_of_case,
    SCALE: tl.constexpr, REGIONS: tl.constexpr, MASKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    logits = _product(q, tl.trans(k), ACC) * SCALE + bias_block
    if REGIONS:
        regions += window % windows_of_case * n
        of_row = tl.load(regions + row, mask=row < n, other=-1)
        of_column = tl.load(regions + column, mask=column < n, other=-1)
        logits += tl.where(of_row[:, None] != of_column[None, :], MASKED, 0.0).to(ACC)
    return logits


@jit
@no_type_check
def _forward_kernel(
    q, k, v, bias, regions, output, log_sums, n, padded, windows_of_case,
    q_window, q_head, q_row, k_window, k_head, k_row, v_window, v_head, v_row, o_window, o_head, o_row,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, SCALE: tl.constexpr, REGIONS: tl.constexpr,
    MASKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    window = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    queries = _rows(q, window, head, row, n, q_window, q_head, q_row, HEAD, BD)
    highest = tl.full((BLOCK,), float("-inf"), ACC)
    total = tl.zeros((BLOCK,), ACC)
    result = tl.zeros((BLOCK, BD), ACC)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        keys = _rows(k, window, head, column, n, k_window, k_head, k_row, HEAD, BD)
        values = _rows(v, window, head, column, n, v_window, v_head, v_row, HEAD, BD)
        bias_block = _bias_block(bias, head, row, column, padded, ACC)
        logits = _logits(
            queries, keys, bias_block, regions, window, row, column, n, windows_of_case, SCALE, REGIONS, MASKED, ACC
        )
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp(highest - new_highest)
        powers = tl.exp(logits - new_highest[:, None])
        total = total * shrink + tl.sum(powers, 1)
        result = result * shrink[:, None] + _product(powers.to(values.dtype), values, ACC)
        highest = new_highest
    _store(output, result / total[:, None], window, head, row, n, o_window, o_head, o_row, HEAD, BD)
    tl.store(log_sums + (window * tl.num_programs(1) + head) * n + row, highest + tl.log(total), mask=row < n)


@jit
@no_type_check
def _logit_gradient(logits, gradient, values, log_sum, offset, ACC: tl.constexpr):
    """Probabilities and the gradient of the logits, from those of the output's rows."""
    p = tl.exp(logits - log_sum[:, None])
    return p, p * (_product(gradient, tl.trans(values), ACC) - offset[:, None])


@jit
@no_type_check
def _query_gradient_kernel(
    q, k, v, bias, regions, gradient, log_sums, offsets, n, padded, windows_of_case, output, q_gradient,
    q_window, q_head, q_row, k_window, k_head, k_row, v_window, v_head, v_row, g_window, g_head, g_row,
    o_window, o_head, o_row, dq_window, dq_head, dq_row,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, SCALE: tl.constexpr, REGIONS: tl.constexpr,
    MASKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    window = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    statistics = (window * tl.num_programs(1) + head) * n
    queries = _rows(q, window, head, row, n, q_window, q_head, q_row, HEAD, BD)
    g = _rows(gradient, window, head, row, n, g_window, g_head, g_row, HEAD, BD)
    outputs = _rows(output, window, head, row, n, o_window, o_head, o_row, HEAD, BD)
    offset = tl.sum(outputs.to(ACC) * g.to(ACC), 1)
    tl.store(offsets + statistics + row, offset, mask=row < n)
    log_sum = tl.load(log_sums + statistics + row, mask=row < n, other=0.0)
    result = tl.zeros((BLOCK, BD), ACC)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        keys = _rows(k, window, head, column, n, k_window, k_head, k_row, HEAD, BD)
        values = _rows(v, window, head, column, n, v_window, v_head, v_row, HEAD, BD)
        bias_block = _bias_block(bias, head, row, column, padded, ACC)
        logits = _logits(
            queries, keys, bias_block, regions, window, row, column, n, windows_of_case, SCALE, REGIONS, MASKED, ACC
        )
        _, of_logits = _logit_gradient(logits, g, values, log_sum, offset, ACC)
        result += _product(of_logits.to(keys.dtype), keys, ACC)
    _store(q_gradient, result * SCALE, window, head, row, n, dq_window, dq_head, dq_row, HEAD, BD)


@jit
@no_type_check
def _key_value_gradient_kernel(
    q, k, v, bias, regions, gradient, log_sums, offsets, n, padded, windows_of_case, k_gradient, v_gradient,
    q_window, q_head, q_row, k_window, k_head, k_row, v_window, v_head, v_row, g_window, g_head, g_row,
    dk_window, dk_head, dk_row, dv_window, dv_head, dv_row,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, SCALE: tl.constexpr, REGIONS: tl.constexpr,
    MASKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    window = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    statistics = (window * tl.num_programs(1) + head) * n
    keys = _rows(k, window, head, column, n, k_window, k_head, k_row, HEAD, BD)
    values = _rows(v, window, head, column, n, v_window, v_head, v_row, HEAD, BD)
    of_keys = tl.zeros((BLOCK, BD), ACC)
    of_values = tl.zeros((BLOCK, BD), ACC)
    for start in range(0, n, BLOCK):
        row = start + tl.arange(0, BLOCK)
        queries = _rows(q, window, head, row, n, q_window, q_head, q_row, HEAD, BD)
        g = _rows(gradient, window, head, row, n, g_window, g_head, g_row, HEAD, BD)
        bias_block = _bias_block(bias, head, row, column, padded, ACC)
        logits = _logits(
            queries, keys, bias_block, regions, window, row, column, n, windows_of_case, SCALE, REGIONS, MASKED, ACC
        )
        log_sum = tl.load(log_sums + statistics + row, mask=row < n, other=0.0)
        offset = tl.load(offsets + statistics + row, mask=row < n, other=0.0)
        p, of_logits = _logit_gradient(logits, g, values, log_sum, offset, ACC)
        of_values += _product(tl.trans(p.to(g.dtype)), g, ACC)
        of_keys += _product(tl.trans(of_logits.to(queries.dtype)), queries, ACC)
    _store(k_gradient, of_keys * SCALE, window, head, column, n, dk_window, dk_head, dk_row, HEAD, BD)
    _store(v_gradient, of_values, window, head, column, n, dv_window, dv_head, dv_row, HEAD, BD)


@jit
@no_type_check
def _bias_gradient_kernel(
    q, k, v, bias, regions, gradient, log_sums, offsets, n, padded, windows_of_case, bias_shares, windows,
    q_window, q_head, q_row, k_window, k_head, k_row, v_window, v_head, v_row, g_window, g_head, g_row,
    HEAD: tl.constexpr, BLOCK: tl.constexpr, BD: tl.constexpr, SCALE: tl.constexpr, REGIONS: tl.constexpr,
    MASKED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(n, BLOCK)
    head = tl.program_id(1)
    share = tl.program_id(2)
    row = tl.program_id(0) // across * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(0) % across * BLOCK + tl.arange(0, BLOCK)
    bias_block = _bias_block(bias, head, row, column, padded, ACC)
    total = tl.zeros((BLOCK, BLOCK), ACC)
    per_share = tl.cdiv(windows, tl.num_programs(2))
    for index in range(share * per_share, tl.minimum((share + 1) * per_share, windows)):
        window = (tl.program_id(0) * 0 + index).to(tl.int64)
        queries = _rows(q, window, head, row, n, q_window, q_head, q_row, HEAD, BD)
        keys = _rows(k, window, head, column, n, k_window, k_head, k_row, HEAD, BD)
        values = _rows(v, window, head, column, n, v_window, v_head, v_row, HEAD, BD)
        g = _rows(gradient, window, head, row, n, g_window, g_head, g_row, HEAD, BD)
        logits = _logits(
            queries, keys, bias_block, regions, window, row, column, n, windows_of_case, SCALE, REGIONS, MASKED, ACC
        )
        statistics = (window * tl.num_programs(1) + head) * n + row
        log_sum = tl.load(log_sums + statistics, mask=row < n, other=0.0)
        offset = tl.load(offsets + statistics, mask=row < n, other=0.0)
        _, of_logits = _logit_gradient(logits, g, values, log_sum, offset, ACC)
        total += of_logits
    place = (share * tl.num_programs(1) + head).to(tl.int64) * padded * padded
    tl.store(bias_shares + place + row[:, None] * padded + column[None, :], total)
