"""Swin3D-T: torchvision's SwinTransformer3d with the paper's patch (Table 7), and the tiny one of the same class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anatobench.backbones.swin3d_t import CARD, STOCHASTIC_DEPTH, Layout
from anatobench.engine import ModelSpec
from anatobench.tasks import Size
from jax_impl.layers.layer_norm import LayerNorm
from jax_impl.layers.linear import Linear
from jax_impl.layers.mlp import Mlp
from jax_impl.layers.noise import Key, key_at, stochastic_depth
from jax_impl.layers.patch_embedding import PatchEmbedding
from jax_impl.layers.window_attention import WindowAttention
from jax_impl.weights import Entry, Path

EPSILON = 1e-5
"""Of every LayerNorm."""
DEVIATION = 0.02
"""Of every linear layer's and bias table's initial weights. (torch's trunc_normal_ truncates at +-2, a hundred
deviations: the normal distribution. What SwinTransformerBlock gives its MLP before is overwritten.)"""


class PatchEmbed(nnx.Module):
    """[B, D, H, W, 1], padded with zeros to whole patches, to normalised patches [B, d, h, w, C]."""

    def __init__(self, layout: Layout, *, dtype: DTypeLike, generator: np.random.Generator) -> None:
        self.proj = PatchEmbedding(layout.patch, layout.channels, dtype=dtype, generator=generator)
        self.norm = LayerNorm(layout.channels, EPSILON)
        self.patch = layout.patch

    def __call__(self, x: jax.Array) -> jax.Array:
        missing = [(0, -length % side) for length, side in zip(x.shape[1:4], self.patch, strict=True)]
        return self.norm(self.proj(jnp.pad(x, [(0, 0), *missing, (0, 0)])))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield the convolution and its norm."""
        yield from self.proj.weight_table(f"{name}.proj", (*path, "proj"))
        yield from self.norm.weight_table(f"{name}.norm", (*path, "norm"))


class SwinBlock(nnx.Module):
    """Window attention and MLP on [B, d, h, w, C], each normalised before and added to what it was given."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Size,
        shift: Size,
        drop_rate: float,
        *,
        dtype: DTypeLike,
        forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:
        self.norm1 = LayerNorm(channels, EPSILON, dtype=dtype)
        self.attn = WindowAttention(
            channels,
            heads,
            window,
            shift,
            deviation=DEVIATION,
            dtype=dtype,
            fast="window_attention" in forms,
            generator=generator,
        )
        self.norm2 = LayerNorm(channels, EPSILON, dtype=dtype)
        self.mlp = Mlp(channels, channels, deviation=DEVIATION, dtype=dtype, generator=generator)
        self.drop_rate = drop_rate

    def __call__(self, x: jax.Array, key: Key | None) -> jax.Array:
        x = x + stochastic_depth(self.attn(self.norm1(x)), self.drop_rate, key_at(key, 0))
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_rate, key_at(key, 1))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """In torchvision's order."""
        for part in ("norm1", "attn", "norm2", "mlp"):
            yield from getattr(self, part).weight_table(f"{name}.{part}", (*path, part))


class PatchMerging(nnx.Module):
    """torchvision's PatchMerging: [B, d, h, w, C] to [B, d, ceil(h / 2), ceil(w / 2), 2 C]."""

    def __init__(self, channels: int, *, dtype: DTypeLike, generator: np.random.Generator) -> None:
        self.norm = LayerNorm(4 * channels, EPSILON, dtype=dtype)
        self.reduction = Linear(
            4 * channels, 2 * channels, deviation=DEVIATION, bias=False, dtype=dtype, generator=generator
        )

    def __call__(self, x: jax.Array, key: Key | None) -> jax.Array:
        _, _, height, width, _ = x.shape
        x = jnp.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        quarters = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(jnp.concatenate(quarters, -1)))

    def weight_table(self, name: str, path: Path) -> Iterator[Entry]:
        """Yield the norm and the linear layer, which has no bias."""
        yield from self.reduction.weight_table(f"{name}.reduction", (*path, "reduction"))
        yield from self.norm.weight_table(f"{name}.norm", (*path, "norm"))


class Swin3DT(nnx.Module):
    """[B, D, H, W, 1] to a feature map at 1/16 of the size (full), or 1/4 x 1/8 x 1/8 (tiny), rounded up."""

    def __init__(
        self,
        layout: Layout,
        class_count: int,
        *,
        dtype: DTypeLike,
        forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:
        self.patch_embed = PatchEmbed(layout, dtype=dtype, generator=generator)
        # torchvision's Sequential: a stage's blocks at every even position, a merging between at every odd one.
        self.features: nnx.List[PatchMerging | nnx.List[SwinBlock]] = nnx.List([])
        drop_rates = iter(np.linspace(0.0, STOCHASTIC_DEPTH, sum(layout.depths)).tolist())
        for stage, depth in enumerate(layout.depths):
            channels = layout.channels * 2**stage
            if stage > 0:
                self.features.append(PatchMerging(channels // 2, dtype=dtype, generator=generator))
            blocks = [
                SwinBlock(
                    channels,
                    layout.heads[stage],
                    layout.window,
                    _shift(layout.window, position),
                    next(drop_rates),
                    dtype=dtype,
                    forms=forms,
                    generator=generator,
                )
                for position in range(depth)
            ]
            self.features.append(nnx.List(blocks))
        self.norm = LayerNorm(channels, EPSILON)
        self.head = Linear(channels, class_count, deviation=DEVIATION, generator=generator)
        self.feature_channels = channels

    def stages(self, train: bool, key: Key | None) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        """Yield the patches, every block and merging, then the normalised map; all [B, d, h, w, C]."""
        yield "patch_embed", self.patch_embed
        for place, (position, layer) in enumerate(self._layers()):
            yield _dotted("features", position), partial(layer, key=key_at(key, place))
        yield "norm", self.norm

    def classify(self, pooled: jax.Array, key: Key | None) -> jax.Array:
        """[B, C] to [B, logits]."""
        return self.head(pooled)

    def weight_table(self) -> Iterator[Entry]:
        """torchvision's names."""
        yield from self.patch_embed.weight_table("patch_embed", ("patch_embed",))
        for position, layer in self._layers():
            yield from layer.weight_table(_dotted("features", position), ("features", *position))
        yield from self.norm.weight_table("norm", ("norm",))
        yield from self.head.weight_table("head", ("head",))

    def _layers(self) -> Iterator[tuple[tuple[int, ...], SwinBlock | PatchMerging]]:
        for index, layer in enumerate(self.features):
            if isinstance(layer, PatchMerging):
                yield (index,), layer
            else:
                for position, block in enumerate(layer):
                    yield (index, position), block


def _shift(window: Size, position: int) -> Size:
    return (0, 0, 0) if position % 2 == 0 else (window[0] // 2, window[1] // 2, window[2] // 2)


def _dotted(name: str, position: tuple[int, ...]) -> str:
    return ".".join([name, *map(str, position)])


def build_swin3d_t(
    spec: ModelSpec, dtype: DTypeLike, forms: Collection[str], generator: np.random.Generator
) -> Swin3DT:
    """Return the backbone for a spec; it takes any crop size."""
    return Swin3DT(CARD.layout(spec.size), spec.task.logit_count, dtype=dtype, forms=forms, generator=generator)
