"""The registry of backbones: one line per model.

What is no layer stands once for both frameworks, on the backbone's card in `anatobench/backbones/`.

A backbone is a module that offers
- `stages()`: (name, callable) pairs in order; each takes the previous one's output, the last gives the feature map
  F [B, C, D, H, W];
- `classify(pooled)`: the linear classifier on the globally averaged F, [B, C] to [B, logits];
- `feature_channels`: C;
- `memory_format`: how its parameters and maps lie in a GPU's memory where its kernels are fastest;
and keeps torchvision's parameter names.
"""

from __future__ import annotations

from collections.abc import Callable

from anatobench.engine import ModelSpec
from torch_ref.models.diagnosis_model import Backbone
from torch_ref.models.mvit_v2_s import build_mvit_v2_s
from torch_ref.models.r3d_18 import build_r3d_18
from torch_ref.models.swin3d_t import build_swin3d_t

BACKBONES: dict[str, Callable[[ModelSpec, frozenset[str]], Backbone]] = {
    "r3d_18": build_r3d_18,
    "mvit_v2_s": build_mvit_v2_s,
    "swin3d_t": build_swin3d_t,
}


def build_backbone(spec: ModelSpec, forms: frozenset[str] = frozenset()) -> Backbone:
    """Return the backbone of that name with torchvision's initialisation, drawn from torch's generator, float32 on the
    CPU.

    `forms` are the fast forms that its layers take (anatobench/fast_forms.py); none is torchvision's own model.
    """
    return BACKBONES[spec.model](spec, forms)
