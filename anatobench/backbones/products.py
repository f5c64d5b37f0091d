"""Matrix products: what a backbone's card counts its operations in."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from anatobench.tasks import Size


@dataclass(frozen=True)
class Product:
    """[rows, inner] times [inner, columns].

    A convolution is one too: a row per output voxel, `inner` the kernel's voxels times the channels they see.
    """

    rows: int
    inner: int
    columns: int
    needs_input_gradient: bool = True
    """False for the layer that sees the scan."""

    @property
    def forward(self) -> int:
        return 2 * self.rows * self.inner * self.columns

    @property
    def backward(self) -> int:
        """The gradient of each factor costs as much as the product."""
        return self.forward * (2 if self.needs_input_gradient else 1)


def voxels(size: Size) -> int:
    """Count the voxels of a map."""
    return prod(size)


def strided(size: Size, kernel: Size, stride: Size, padding: Size) -> Size:
    """Return the size after a convolution or a pooling."""
    d, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    return d, h, w
