"""3D convolution with PyTorch's conventions, and how it is lowered.

XLA's own 3D convolution is several times slower than PyTorch's on a CPU (and its input gradient with a stride far
more), while its 2D convolution is fast. So on a CPU the depth axis is folded into the batch, and the taps along depth
become channels: one 2D convolution, the same sums in another order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from jax_impl.layers.initialisation import kaiming_normal_fan_out

Triple = tuple[int, int, int]


class Conv3d(nnx.Module):
    """torch.nn.Conv3d without bias, with a symmetric padding, on [B, D, H, W, C]; kernel [D, H, W, in, out].

    Initialised as torchvision's VideoResNet does.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dtype: DTypeLike,
        generator: np.random.Generator,
    ) -> None:
        self.kernel = nnx.Param(kaiming_normal_fan_out(generator, (kernel_size,) * 3 + (channels, filters)))
        self.stride: Triple = (stride,) * 3
        self.padding: Triple = (padding,) * 3
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return conv3d(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride, self.padding)


def conv3d(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """x [B, D, H, W, C], kernel [kd, kh, kw, C, O] to [B, D', H', W', O], by the lowering that suits."""
    if kernel.shape[:3] == stride and padding == (0, 0, 0):
        return conv3d_of_patches(x, kernel)
    if kernel.shape[:3] == (1, 1, 1) and padding == (0, 0, 0):
        return conv3d_of_patches(x[:, :: stride[0], :: stride[1], :: stride[2]], kernel)
    if jax.default_backend() == "cpu":
        return conv3d_folded(x, kernel, stride, padding)
    return conv3d_direct(x, kernel, stride, padding)


def conv3d_direct(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """Return `conv3d` by XLA's 3D convolution, of the same shapes."""
    return lax.conv_general_dilated(
        x, kernel, stride, [(p, p) for p in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def conv3d_folded(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """Return `conv3d`, of the same shapes, by one 2D convolution: depth is folded into the batch, [B D', H, W, kd C],
    with the taps along depth concatenated as channels."""
    batch, _, height, width, channels = x.shape
    taps, kernel_height, kernel_width, _, filters = kernel.shape
    x = jnp.pad(x, ((0, 0), (padding[0], padding[0]), (0, 0), (0, 0), (0, 0)))
    depth = (x.shape[1] - taps) // stride[0] + 1
    last = (depth - 1) * stride[0]
    slices = [lax.slice_in_dim(x, tap, tap + last + 1, stride[0], axis=1) for tap in range(taps)]
    folded = jnp.concatenate(slices, -1).reshape(batch * depth, height, width, taps * channels)
    kernel_2d = kernel.transpose(1, 2, 0, 3, 4).reshape(kernel_height, kernel_width, taps * channels, filters)
    y = lax.conv_general_dilated(
        folded, kernel_2d, stride[1:], [(p, p) for p in padding[1:]], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(batch, depth, *y.shape[1:])


def conv3d_of_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `conv3d`, of the same shapes, with a stride equal to the kernel and no padding: patches do not overlap, so
    this is one matrix product."""
    kd, kh, kw, channels, filters = kernel.shape
    batch, depth, height, width = x.shape[0], x.shape[1] // kd, x.shape[2] // kh, x.shape[3] // kw
    x = x[:, : depth * kd, : height * kh, : width * kw]  # as any convolution, leave out what fills no patch
    x = x.reshape(batch, depth, kd, height, kh, width, kw, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(batch, depth, height, width, -1) @ kernel.reshape(-1, filters)
