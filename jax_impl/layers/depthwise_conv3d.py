"""torch.nn.Conv3d(C, C, kernel_size=3, padding=1, groups=C, bias=False): one 3x3x3 kernel per channel.

XLA's grouped convolution is one to two orders of magnitude slower on a CPU (measured: 15 s against 0.4 s for forward
and both gradients of [1, 6, 96, 96, 96]), and cuDNN's 3D one is known for it. So the sum over the 27 taps is written
out, for XLA to fuse into one pass. Its gradients are written out too: derived automatically, the input's would be 27
padded arrays, and the kernel's 27 reductions that each compile for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatobench.tasks import Size
from jax_impl.layers import depthwise_kernels

KERNEL = (3, 3, 3)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv3d(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
    """x [B, D, H, W, C], kernel [3, 3, 3, C] to [B, D', H', W', C] with D' = ceil(D / stride)."""
    return _sum_of_taps(_with_border(x), kernel, _pooled(x.shape[1:4], stride), stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: Size) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_conv3d(x, kernel, stride), (x, kernel)


def _backward(stride: Size, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _input_gradient(kernel, gradient, x.shape[1:4], stride), _kernel_gradient(x, gradient, stride)


depthwise_conv3d.defvjp(_forward, _backward)


def _input_gradient(kernel: jax.Array, gradient: jax.Array, size: Sequence[int], stride: Size) -> jax.Array:
    """Return the mirrored kernel over the gradient with `stride` - 1 zeros between its voxels: a sum of taps again."""
    spans = [(count - 1) * step + 1 for count, step in zip(gradient.shape[1:4], stride, strict=True)]
    borders = [(1, 1 + length - span, step - 1) for length, span, step in zip(size, spans, stride, strict=True)]
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *borders, (0, 0, 0)])
    return _sum_of_taps(spread, kernel[::-1, ::-1, ::-1], size, (1, 1, 1))


def _kernel_gradient(x: jax.Array, gradient: jax.Array, stride: Size) -> jax.Array:
    """[3, 3, 3, C]. On a CPU tap by tap in a loop, one reduction to compile. On a GPU 27 reductions that run faster:
    the full MViT's step took 87.4 ms in place of 99.2 on an H100. Cases are summed last, outside the loop: where they
    are spread over devices, these talk once and not at every tap."""
    x = _with_border(x)
    spans = [(count - 1) * step + 1 for count, step in zip(gradient.shape[1:4], stride, strict=True)]
    accumulate = jnp.promote_types(x.dtype, jnp.float32)

    def of_tap(start: jax.Array | Sequence[int]) -> jax.Array:
        seen = lax.dynamic_slice(x, start, (x.shape[0], *spans, x.shape[-1]))
        seen = seen[:, :: stride[0], :: stride[1], :: stride[2]]
        return jnp.sum(seen.astype(accumulate) * gradient.astype(accumulate), (1, 2, 3))

    starts = [(0, *tap, 0) for tap in np.ndindex(KERNEL)]
    if jax.default_backend() == "cpu":
        taps: jax.Array = lax.map(of_tap, jnp.asarray(np.array(starts, np.int32)))
    else:
        taps = jnp.stack([of_tap(start) for start in starts])
    return taps.sum(1).reshape(*KERNEL, -1).astype(x.dtype)


def _pooled(size: Sequence[int], stride: Size) -> Size:
    depth, height, width = (-(-length // step) for length, step in zip(size, stride, strict=True))
    return depth, height, width


def _sum_of_taps(x: jax.Array, kernel: jax.Array, size: Sequence[int], stride: Size) -> jax.Array:
    """x with its border; `size` is the result's. Summed in float32 at least, as PyTorch does."""
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    spans = [(count - 1) * step + 1 for count, step in zip(size, stride, strict=True)]
    total: jax.Array | float = 0.0
    for tap in np.ndindex(KERNEL):
        end = [first + span for first, span in zip(tap, spans, strict=True)]
        seen = lax.slice(x, (0, *tap, 0), (x.shape[0], *end, x.shape[-1]), (1, *stride, 1))
        total = total + seen.astype(accumulate) * kernel[tap].astype(accumulate)
    return jnp.asarray(total).astype(x.dtype)


def _with_border(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def fast_depthwise_conv3d(x: jax.Array, kernel: jax.Array, stride: Size) -> jax.Array:
    """As `depthwise_conv3d`, of the same shapes, by kernels written for a GPU (depthwise_kernels.py); on a CPU they are
    interpreted."""
    if x.size > depthwise_kernels.LARGEST:
        return depthwise_conv3d(x, kernel, stride)
    return depthwise_kernels.convolve(x, kernel, stride, _pooled(x.shape[1:4], stride), _interpreted())


def _fast_forward(x: jax.Array, kernel: jax.Array, stride: Size) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return fast_depthwise_conv3d(x, kernel, stride), (x, kernel)


def _fast_backward(
    stride: Size, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if x.size > depthwise_kernels.LARGEST:
        return _backward(stride, saved, gradient)
    _, depth, height, width, _ = x.shape
    size, interpret = (depth, height, width), _interpreted()
    of_kernel = depthwise_kernels.kernel_gradient(x, gradient, stride, interpret)
    return (
        depthwise_kernels.input_gradient(gradient, kernel, stride, size, interpret),
        of_kernel.astype(kernel.dtype),
    )


fast_depthwise_conv3d.defvjp(_fast_forward, _fast_backward)


def _interpreted() -> bool:
    return jax.default_backend() != "gpu"
