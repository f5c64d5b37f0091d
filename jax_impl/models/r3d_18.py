"""R3D-18: torchvision's VideoResNet with the paper's stem (Table 7), and the tiny one of the same class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anatobench.backbones.r3d_18 import CARD, STEM_STRIDE, Layout
from anatobench.engine import ModelSpec
from jax_impl.layers.batch_norm import BatchNorm
from jax_impl.layers.conv3d import Conv3d
from jax_impl.layers.linear import Linear
from jax_impl.layers.noise import Key
from jax_impl.weights import Entry, Path, batch_norm_entries, conv3d_entries


class ConvNorm(nnx.Module):
    """A convolution without bias and its BatchNorm, positions 0 and 1 of torchvision's Sequential: [B, D, H, W, C] to
    [B, D', H', W', O]."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dtype: DTypeLike,
        fast: bool,
        generator: np.random.Generator,
    ) -> None:
        self.conv = Conv3d(
            channels, filters, kernel_size, stride=stride, padding=padding, dtype=dtype, generator=generator
        )
        self.norm = BatchNorm(filters, dtype=dtype, fast=fast)

    def __call__(
        self, x: jax.Array, train: bool, *, residual: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalise, and do with it what follows in a block: the addition of `residual` and ReLU."""
        return self.norm(self.conv(x), train, residual=residual, relu=relu)

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """`name` and `path` are those of the Sequential."""
        kd, kh, kw, channels, filters = self.conv.kernel[...].shape
        yield from conv3d_entries(f"{name}.0", (*path, "conv"), (filters, channels, kd, kh, kw))
        yield from batch_norm_entries(f"{name}.1", (*path, "norm"), filters)


class Stem(ConvNorm):
    """Table 7: one input channel, kernel and stride 2 in all three axes; BatchNorm and ReLU stay."""

    def __init__(self, width: int, *, dtype: DTypeLike, fast: bool, generator: np.random.Generator) -> None:
        super().__init__(1, width, STEM_STRIDE, stride=STEM_STRIDE, dtype=dtype, fast=fast, generator=generator)


class BasicBlock(nnx.Module):
    """Two 3x3x3 convolutions, [B, D, H, W, C] to [B, D', H', W', O], around which the input is added, by a strided
    1x1x1 convolution where shapes differ."""

    def __init__(
        self,
        channels: int,
        filters: int,
        stride: int,
        *,
        dtype: DTypeLike,
        fast: bool,
        generator: np.random.Generator,
    ) -> None:
        build = partial(ConvNorm, dtype=dtype, fast=fast, generator=generator)
        self.conv1 = build(channels, filters, 3, stride=stride, padding=1)
        self.conv2 = build(filters, filters, 3, padding=1)
        self.downsample = build(channels, filters, 1, stride=stride) if stride != 1 or channels != filters else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv1(x, train, relu=True)
        residual = x if self.downsample is None else self.downsample(x, train)
        return self.conv2(y, train, residual=residual, relu=True)

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield the block's convolutions."""
        yield from self.conv1.weight_table(f"{name}.conv1", (*path, "conv1"))
        yield from self.conv2.weight_table(f"{name}.conv2", (*path, "conv2"))
        if self.downsample is not None:
            yield from self.downsample.weight_table(f"{name}.downsample", (*path, "downsample"))


class R3D18(nnx.Module):
    """[B, D, H, W, 1] to a feature map at 1/16 (full) or 1/4 (tiny) of the size."""

    def __init__(
        self,
        layout: Layout,
        class_count: int,
        *,
        dtype: DTypeLike,
        forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:
        build = partial(BasicBlock, dtype=dtype, fast="batch_norm" in forms, generator=generator)
        self.stem = Stem(layout.width, dtype=dtype, fast="batch_norm" in forms, generator=generator)
        channels = layout.width
        for index, first_stride in enumerate(layout.strides):
            filters = layout.width * 2**index
            blocks = []
            for stride in (first_stride, *[1] * (layout.blocks - 1)):
                blocks.append(build(channels, filters, stride))
                channels = filters
            setattr(self, f"layer{index + 1}", nnx.List(blocks))
        self.fc = Linear(channels, class_count, deviation=0.01, generator=generator)
        self.feature_channels = channels

    def stages(self, train: bool, key: Key | None) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        """Yield the stem, [B, D, H, W, 1] to [B, d, h, w, C], then every residual block on such maps. Nothing is drawn
        at random."""
        yield "stem", partial(self.stem, train=train, relu=True)
        for index, position, block in self._blocks():
            yield f"layer{index}.{position}", partial(block, train=train)

    def classify(self, pooled: jax.Array, key: Key | None) -> jax.Array:
        """[B, C] to [B, logits]."""
        return self.fc(pooled)

    def weight_table(self) -> Iterator[Entry]:
        """torchvision's names."""
        yield from self.stem.weight_table("stem", ("stem",))
        for index, position, block in self._blocks():
            yield from block.weight_table(f"layer{index}.{position}", (f"layer{index}", position))
        yield from self.fc.weight_table("fc", ("fc",))

    def _blocks(self) -> Iterator[tuple[int, int, BasicBlock]]:
        for index in range(1, 5):
            for position, block in enumerate(getattr(self, f"layer{index}")):
                yield index, position, block


def build_r3d_18(spec: ModelSpec, dtype: DTypeLike, forms: Collection[str], generator: np.random.Generator) -> R3D18:
    """Return the backbone for a spec; it takes any crop size."""
    return R3D18(CARD.layout(spec.size), spec.task.logit_count, dtype=dtype, forms=forms, generator=generator)
