"""The registry of backbones: one line per model.

What is no layer stands once for both frameworks, on the backbone's card in `anatobench/backbones/`.

A backbone is an NNX module that offers
- `stages(train, key)`: (name, callable) pairs in order; each takes the previous one's output, the last gives the
  feature map F [B, D, H, W, C]; `key` is for what is drawn at random (`layers/noise.py`), None draws nothing;
- `classify(pooled, key)`: the linear classifier on the globally averaged F, [B, C] to [B, logits];
- `feature_channels`: C;
- `weight_table()`: where each of torchvision's arrays stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from jax.typing import DTypeLike

from anatobench.engine import ModelSpec
from jax_impl.models.diagnosis_model import Backbone
from jax_impl.models.mvit_v2_s import build_mvit_v2_s
from jax_impl.models.r3d_18 import build_r3d_18
from jax_impl.models.swin3d_t import build_swin3d_t

BACKBONES: dict[str, Callable[[ModelSpec, DTypeLike, Collection[str], np.random.Generator], Backbone]] = {
    "r3d_18": build_r3d_18,
    "mvit_v2_s": build_mvit_v2_s,
    "swin3d_t": build_swin3d_t,
}


def build_backbone(
    spec: ModelSpec, dtype: DTypeLike, forms: Collection[str], generator: np.random.Generator
) -> Backbone:
    """Return the backbone of that name, computing in `dtype`, with float32 weights distributed as torchvision's;
    `forms` names the layers that take their fast form (anatobench/fast_forms.py)."""
    return BACKBONES[spec.model](spec, dtype, forms, generator)
