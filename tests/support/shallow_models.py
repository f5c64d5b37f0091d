"""Tiny models with some of their blocks alone, in processes that tests start with `SHALLOW` and in modules of tests
that use the fixture `shallow_models`: they are traced, compiled and trained in half the time, where how a model is
trained, compiled or shared out is the subject, and not which."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike
from shallow_transformers import make_transformers_shallow
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple

from anatobench.backbones.r3d_18 import LAYOUTS, Layout
from jax_impl.models import r3d_18 as of_jax
from torch_ref.models import r3d_18 as of_torch


def make_models_shallow(width: int, patch: pytest.MonkeyPatch) -> None:
    """R3D has so many channels in its stem (the tiny one 12), and keeps the first block and the last, which then halves
    the grid itself, so that the feature map is as fine."""
    make_transformers_shallow(patch)
    patch.setitem(LAYOUTS, "tiny", replace(LAYOUTS["tiny"], width=width))
    patch.setattr(of_torch.R3D18, "_rebuild", _shallow_in_torch(of_torch.R3D18._rebuild))
    patch.setattr(of_jax.R3D18, "__init__", _shallow_in_jax(of_jax.R3D18.__init__))


def _shallow_in_torch(rebuild: Callable[..., None]) -> Callable[..., None]:
    @wraps(rebuild)
    def shallow(self: of_torch.R3D18, layout: Layout, class_count: int) -> None:
        rebuild(self, layout, class_count)
        planes, self.inplanes = self.inplanes, layout.width
        self.layer2 = self.layer3 = nn.Sequential()
        self.layer4 = self._make_layer(BasicBlock, Conv3DSimple, planes, 1, 2)
        self.layer4.apply(of_torch._initialise)

    return shallow


def _shallow_in_jax(build: Callable[..., None]) -> Callable[..., None]:
    @wraps(build)
    def shallow(
        self: of_jax.R3D18, layout: Layout, class_count: int, *, dtype: DTypeLike, forms: Collection[str],
        generator: np.random.Generator,
    ) -> None:  # fmt: skip
        build(self, layout, class_count, dtype=dtype, forms=forms, generator=generator)
        fast: dict[str, Any] = {"dtype": dtype, "fast": "batch_norm" in forms, "generator": generator}
        last = nnx.List([of_jax.BasicBlock(layout.width, self.feature_channels, 2, **fast)])
        for name, blocks in (("layer2", nnx.List([])), ("layer3", nnx.List([])), ("layer4", last)):
            setattr(self, name, blocks)

    return shallow
