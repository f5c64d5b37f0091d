"""A backbone with its linear classifier and auxiliary heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol, cast

import jax
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anatobench.tasks import Size
from jax_impl.layers.noise import Key, key_at
from jax_impl.layers.upsampling import upsample_trilinear
from jax_impl.models.auxiliary_head import AuxiliaryHead
from jax_impl.weights import Entry


class Backbone(Protocol):
    """See the package's docstring."""

    feature_channels: int

    def stages(self, train: bool, key: Key | None) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        """Yield what leads from [B, D, H, W, 1] to the feature map [B, d, h, w, C], in order, by name."""

    def classify(self, pooled: jax.Array, key: Key | None) -> jax.Array:
        """[B, C] to [B, logits]."""

    def weight_table(self) -> Iterator[Entry]: ...


class DiagnosisModel(nnx.Module):
    """Logits from globally averaged features; the auxiliary heads' logits from the features themselves."""

    def __init__(
        self,
        backbone: Backbone,
        auxiliary: Mapping[str, int],
        *,
        head_dtype: DTypeLike,
        generator: np.random.Generator,
        recompute: bool = False,
    ) -> None:
        """`auxiliary` gives each auxiliary head's name and classes. All heads are small: they compute in `head_dtype`,
        the parameters' type, even where the backbone uses bfloat16. `recompute` keeps of each stage its input alone,
        and computes the rest again in the backward pass."""
        self.recompute = recompute
        self.backbone = cast(nnx.Module, backbone)
        self.auxiliary = tuple(auxiliary)
        for name, classes in auxiliary.items():
            setattr(self, f"{name}_head", AuxiliaryHead(name, backbone.feature_channels, classes, generator=generator))
        self.head_dtype = head_dtype

    def features(
        self,
        x: jax.Array,
        train: bool,
        key: Key | None = None,
        record: Callable[[str, jax.Array], None] | None = None,
    ) -> jax.Array:
        """[B, D, H, W, 1] to the feature map [B, d, h, w, C]; `record` is shown every stage's output.

        `key` is the step's, for stochastic depth; None draws nothing.
        """
        for name, stage in cast(Backbone, self.backbone).stages(train, key_at(key, 0)):
            x = jax.checkpoint(stage)(x) if self.recompute else stage(x)
            if record is not None:
                record(name, x)
        return x

    def classify(self, features: jax.Array, key: Key | None = None) -> jax.Array:
        """Global average pooling and the classifier: [B, logits] in the parameters' type. `key` as for `features`."""
        pooled = features.astype(self.head_dtype).mean((1, 2, 3))
        return cast(Backbone, self.backbone).classify(pooled, key_at(key, 1))

    def coarse(self, head: str, features: jax.Array) -> jax.Array | None:
        """Return an auxiliary head's logits [B, classes, d, h, w] in the parameters' type; None for a model without
        it."""
        if head not in self.auxiliary:
            return None
        return self._head(head)(features.astype(self.head_dtype))

    def upsampled(self, head: str, features: jax.Array, size: Size) -> jax.Array | None:
        """Return the same upsampled to [B, classes, D, H, W]: trilinear with align_corners=False, as the paper's
        head."""
        coarse = self.coarse(head, features)
        return None if coarse is None else upsample_trilinear(coarse, size)

    def _head(self, name: str) -> AuxiliaryHead:
        return cast(AuxiliaryHead, getattr(self, f"{name}_head"))

    def stage_names(self) -> list[str]:
        """Return the backbone's stages, in order."""
        return [name for name, _ in cast(Backbone, self.backbone).stages(train=False, key=None)]

    def weight_table(self) -> list[Entry]:
        """Return the backbone's arrays under torchvision's own names, beside `<auxiliary head>_head.*`."""
        table = [
            replace(entry, path=("backbone", *entry.path)) for entry in cast(Backbone, self.backbone).weight_table()
        ]
        return [*table, *(entry for name in self.auxiliary for entry in self._head(name).weight_table())]
