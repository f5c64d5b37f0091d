# ruff: noqa: N803
# In a Triton kernel an annotation is an instruction to the compiler, and sizes keep their capitals.
"""torch.nn.Conv3d(C, C, kernel_size=3, padding=1, groups=C, bias=False): one 3x3x3 kernel per channel.

PyTorch's goes through cuDNN, which in channels-last order launches the kernel gradient channel by channel (4,032
launches in a step of MViT) and needs a copy of the tokens in any other. These kernels read and write the tokens as
they lie. [4, 6, 96, 96, 96] in bf16, forward and backward, on one H100: 0.15 and 1.1 ms; PyTorch's in its default
order 0.45 and 1.7 ms; reading and writing the bytes once would take 0.03 and 0.04 ms.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor

from anatobench.tasks import Size
from torch_ref.layers.depthwise_walk import walk, walking_kernel_gradient
from torch_ref.layers.triton_language import OFFSETS, accumulator, blocks, jit, kernels_run_on, tl

TAPS = 27
POSITIONS = 32
"""Of a block, beside 32 channels, or 64 where those divide C: the blocks whose times are given above. Others were not
measured, nor was the kernel gradient with partial sums: the time is that of one with atomic additions, whose sums
differ from run to run."""
POSITIONS_OF_GRADIENT = 1024
"""Summed up by one program of the kernel gradient: 216 programs per tap and channel block at the size above, and
partial sums of a twentieth of the bytes of x."""

WALK = False
"""Take the kernels of depthwise_walk.py, where they can be. Not measured."""


def depthwise_conv3d(x: Tensor, kernel: Tensor, stride: Size) -> Tensor:
    """x [B, D, H, W, C], kernel [3, 3, 3, c] to [B, D', H', W', C] with D' = ceil(D / stride).

    C is a multiple of c: channel i takes kernel i mod c, as where the heads of an attention share one kernel. The
    kernel is rounded to the type of x; its gradient comes back in its own, summed in float32 at least and in the same
    order every time. `ValueError` for a kernel that does not fit.
    """
    if kernel.shape[:3] != (3, 3, 3) or x.shape[-1] % kernel.shape[3]:
        raise ValueError(f"a kernel of {tuple(kernel.shape)} does not fit {x.shape[-1]} channels: pass [3, 3, 3, c]")
    if kernels_run_on(x) and x[0].numel() < OFFSETS:
        y: Tensor = _depthwise_conv3d(x.contiguous(), kernel.contiguous(), *stride, WALK)
        return y
    return depthwise_conv3d_plain(x, kernel, stride)


def depthwise_conv3d_plain(x: Tensor, kernel: Tensor, stride: Size) -> Tensor:
    """Return the same, x [B, D, H, W, C] to [B, D', H', W', C], by PyTorch's grouped convolution."""
    channels = x.shape[-1]
    weight = kernel.to(x.dtype).permute(3, 0, 1, 2)[:, None].repeat(channels // kernel.shape[3], 1, 1, 1, 1)
    # In the default order: see above for what cuDNN does with a view of channels-last memory.
    x = x.permute(0, 4, 1, 2, 3).contiguous()
    return F.conv3d(x, weight, stride=stride, padding=1, groups=channels).permute(0, 2, 3, 4, 1)


@torch.library.custom_op("anatobench::depthwise_conv3d", mutates_args=())
def _depthwise_conv3d(x: Tensor, kernel: Tensor, sd: int, sh: int, sw: int, walking: bool) -> Tensor:
    kernel, y = kernel.to(x.dtype), x.new_empty(_output_shape(x, sd, sh, sw))
    if walking:
        walk(x, kernel, y, (sd, sh, sw), _channel_block(x.shape[-1]), mirrored=False)
        return y
    batch, depth, height, width, channels = x.shape
    positions, block = y[0, ..., 0].numel(), _channel_block(channels)
    sizes = (depth, height, width, *y.shape[1:])
    _forward_kernel[(blocks(positions, POSITIONS), blocks(channels, block), batch)](
        *(x, kernel, y, *sizes, sd, sh, sw, x[0].numel(), y[0].numel(), positions),
        **{"HEAD": kernel.shape[3], "BP": POSITIONS, "BC": block, "ACC": accumulator(x.dtype)[1]},
    )
    return y


@_depthwise_conv3d.register_fake
def _(x: Tensor, kernel: Tensor, sd: int, sh: int, sw: int, walking: bool) -> Tensor:
    return x.new_empty(_output_shape(x, sd, sh, sw))


@torch.library.custom_op("anatobench::depthwise_conv3d_backward", mutates_args=())
def _depthwise_conv3d_backward(
    gradient: Tensor, x: Tensor, kernel: Tensor, sd: int, sh: int, sw: int, walking: bool
) -> tuple[Tensor, Tensor]:
    gradient, rounded, stride = gradient.contiguous(), kernel.to(x.dtype), (sd, sh, sw)
    x_gradient = torch.empty_like(x)
    if walking and stride == (1, 1, 1):
        walk(gradient, rounded, x_gradient, stride, _channel_block(x.shape[-1]), mirrored=True)
    else:
        _input_gradient(gradient, rounded, x_gradient, stride)
    if walking:
        partial = walking_kernel_gradient(x, gradient, stride, _channel_block(x.shape[-1]))
    else:
        partial = _kernel_gradient(x, gradient, stride)
    kernel_gradient = partial.view(-1, TAPS, x.shape[-1] // kernel.shape[3], kernel.shape[3]).sum((0, 2))
    return x_gradient, kernel_gradient.view(kernel.shape).to(kernel.dtype)


@_depthwise_conv3d_backward.register_fake
def _(gradient: Tensor, x: Tensor, kernel: Tensor, sd: int, sh: int, sw: int, walking: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(kernel)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, *ctx.options = inputs
    ctx.save_for_backward(x, kernel)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*_depthwise_conv3d_backward(gradient, *ctx.saved_tensors, *ctx.options), *(None for _ in ctx.options))


_depthwise_conv3d.register_autograd(_backward, setup_context=_save)


def _output_shape(x: Tensor, sd: int, sh: int, sw: int) -> tuple[int, ...]:
    batch, depth, height, width, channels = x.shape
    return batch, -(-depth // sd), -(-height // sh), -(-width // sw), channels


def _channel_block(channels: int) -> int:
    return 64 if channels % 64 == 0 else 32


def _input_gradient(gradient: Tensor, kernel: Tensor, x_gradient: Tensor, stride: Size) -> None:
    batch, depth, height, width, channels = x_gradient.shape
    positions, block = depth * height * width, _channel_block(channels)
    sizes = (depth, height, width, *gradient.shape[1:])
    _input_gradient_kernel[(blocks(positions, POSITIONS), blocks(channels, block), batch)](
        *(gradient, kernel, x_gradient, *sizes, *stride, x_gradient[0].numel(), gradient[0].numel(), positions),
        **{"HEAD": kernel.shape[3], "BP": POSITIONS, "BC": block, "ACC": accumulator(gradient.dtype)[1]},
    )


def _kernel_gradient(x: Tensor, gradient: Tensor, stride: Size) -> Tensor:
    """[blocks, 27, C]: sums over blocks of positions."""
    batch, *size, channels = x.shape
    sum_type, acc = accumulator(x.dtype)
    positions, block = gradient[0, ..., 0].numel(), _channel_block(channels)
    chunks = blocks(positions, POSITIONS_OF_GRADIENT)
    partial = x.new_empty((batch * chunks, TAPS, channels), dtype=sum_type)
    sizes = (*size, *gradient.shape[1:])
    _kernel_gradient_kernel[(chunks, blocks(channels, block), batch * TAPS)](
        *(x, gradient, partial, *sizes, *stride, x[0].numel(), gradient[0].numel(), positions, chunks),
        **{"BP": POSITIONS, "BC": block, "ACC": acc, "CHUNK": POSITIONS_OF_GRADIENT},
    )
    return partial


# One program of each kernel has BP positions and BC channels of one case. `*_case` are elements of a case: only the
# case's base can lie beyond 2**31 elements. Every input element is read up to 27 times, all but the first from cache:
# by the count of bytes it is far from the device's bandwidth, by that of operations too; what it spends is addresses.


@jit
@no_type_check
def _forward_kernel(
    x, kernel, y, D, H, W, Do, Ho, Wo, C, sd, sh, sw, x_case, y_case, positions,
    HEAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    case = tl.program_id(2).to(tl.int64)
    x += case * x_case
    y += case * y_case
    there = (p < positions)[:, None] & (c < C)[None, :]
    od, oh, ow = p // (Wo * Ho), p // Wo % Ho, p % Wo
    total = tl.zeros((BP, BC), ACC)
    for tap in range(27):
        d, h, w = od * sd + tap // 9 - 1, oh * sh + tap // 3 % 3 - 1, ow * sw + tap % 3 - 1
        inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        seen = tl.load(x + ((d * H + h) * W + w)[:, None] * C + c[None, :], mask=there & inside[:, None], other=0.0)
        weight = tl.load(kernel + tap * HEAD + c % HEAD, mask=c < C, other=0.0)
        total += seen.to(ACC) * weight.to(ACC)[None, :]
    tl.store(y + p[:, None] * C + c[None, :], total.to(y.dtype.element_ty), mask=there)


@jit
@no_type_check
def _input_gradient_kernel(
    gradient, kernel, x_gradient, D, H, W, Do, Ho, Wo, C, sd, sh, sw, x_case, y_case, positions,
    HEAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    case = tl.program_id(2).to(tl.int64)
    gradient += case * y_case
    x_gradient += case * x_case
    there = (p < positions)[:, None] & (c < C)[None, :]
    d, h, w = p // (W * H), p // W % H, p % W
    total = tl.zeros((BP, BC), ACC)
    for tap in range(27):
        # The output that saw this position through this tap, where there is one.
        nd, nh, nw = d + 1 - tap // 9, h + 1 - tap // 3 % 3, w + 1 - tap % 3
        od, oh, ow = nd // sd, nh // sh, nw // sw
        inside = (nd >= 0) & (nh >= 0) & (nw >= 0) & (od < Do) & (oh < Ho) & (ow < Wo)
        inside &= (nd % sd == 0) & (nh % sh == 0) & (nw % sw == 0)
        offset = ((od * Ho + oh) * Wo + ow)[:, None] * C + c[None, :]
        seen = tl.load(gradient + offset, mask=there & inside[:, None], other=0.0)
        weight = tl.load(kernel + tap * HEAD + c % HEAD, mask=c < C, other=0.0)
        total += seen.to(ACC) * weight.to(ACC)[None, :]
    tl.store(x_gradient + p[:, None] * C + c[None, :], total.to(x_gradient.dtype.element_ty), mask=there)


@jit
@no_type_check
def _kernel_gradient_kernel(
    x, gradient, partial, D, H, W, Do, Ho, Wo, C, sd, sh, sw, x_case, y_case, positions, chunks,
    BP: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    case = (tl.program_id(2) // 27).to(tl.int64)
    tap = tl.program_id(2) % 27
    x += case * x_case
    gradient += case * y_case
    total = tl.zeros((BP, BC), ACC)
    for start in range(0, CHUNK, BP):
        p = chunk * CHUNK + start + tl.arange(0, BP)
        there = (p < positions)[:, None] & (c < C)[None, :]
        d, h, w = p // (Wo * Ho) * sd + tap // 9 - 1, p // Wo % Ho * sh + tap // 3 % 3 - 1, p % Wo * sw + tap % 3 - 1
        inside = (d >= 0) & (d < D) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        seen = tl.load(x + ((d * H + h) * W + w)[:, None] * C + c[None, :], mask=there & inside[:, None], other=0.0)
        g = tl.load(gradient + p[:, None] * C + c[None, :], mask=there, other=0.0)
        total += seen.to(ACC) * g.to(ACC)
    tl.store(partial + ((case * chunks + chunk) * 27 + tap) * C + c, tl.sum(total, 0), mask=c < C)
