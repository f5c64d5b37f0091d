"""One count of floating-point operations for both frameworks, so that utilisation means the same in each.

Convolutions and matrix products count, a multiply and an add as two operations; normalisation, activations and
upsampling are memory traffic and do not. The count is of what the mathematics asks for, not of what a kernel happens
to execute: padding taps count as the convolution's definition has them, and padded voxels of Swin's windows count
because they take part in the attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from anatobench.backbones import card_of
from anatobench.backbones.products import Product, voxels
from anatobench.engine import ModelSpec
from anatobench.objectives.heads import HEADS, auxiliary_heads


@dataclass(frozen=True)
class Flops:
    """Operations for one case."""

    forward: int
    training: int
    """Forward, gradient of every weight, and gradient of every input but the scan itself."""


def count(spec: ModelSpec) -> Flops:
    """Operations per case of that model at `spec.crop_size`, with its auxiliary heads."""
    card = card_of(spec.model)
    layout = card.layout(spec.size)
    channels, size = card.feature_map(layout, spec.crop_size)
    products = [*card.products(layout, spec.crop_size), Product(1, channels, spec.task.logit_count)]
    for head in auxiliary_heads(spec.heads):
        products.append(Product(voxels(size), channels, HEADS[head].outputs(spec.task)))
    forward = sum(product.forward for product in products)
    return Flops(forward, forward + sum(product.backward for product in products))
