"""One count of floating-point operations for both frameworks, so that utilisation means the same in each.

Convolutions and matrix products count, a multiply and an add as two operations; normalisation, activations and
upsampling are memory traffic and do not. The count is of what the mathematics asks for, not of what a kernel happens
to execute: padding taps count as the convolution's definition has them, and padded voxels of Swin's windows count
because they take part in the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anatobench.bench.flops import mvit_v2_s, r3d_18, swin3d_t
from anatobench.bench.flops.product import Product, voxels
from anatobench.engine import ModelSpec
from anatobench.errors import UsageError
from anatobench.objectives.heads import HEADS, auxiliary_heads
from anatobench.tasks import Size

BACKBONES: dict[str, Callable[[str, Size], Iterator[Product]]] = {
    "r3d_18": r3d_18.products,
    "mvit_v2_s": mvit_v2_s.products,
    "swin3d_t": swin3d_t.products,
}
FEATURES: dict[str, Callable[[str, Size], tuple[int, Size]]] = {
    "r3d_18": r3d_18.feature_map,
    "mvit_v2_s": mvit_v2_s.feature_map,
    "swin3d_t": swin3d_t.feature_map,
}


@dataclass(frozen=True)
class Flops:
    """Operations for one case."""

    forward: int
    training: int
    """Forward, gradient of every weight, and gradient of every input but the scan itself."""


def count(spec: ModelSpec) -> Flops:
    """Operations per case of that model at `spec.crop_size`, with its auxiliary heads."""
    if spec.model not in BACKBONES:
        raise UsageError(f"model {spec.model!r} has no FLOP count: {', '.join(BACKBONES)} have")
    channels, size = FEATURES[spec.model](spec.size, spec.crop_size)
    products = [*BACKBONES[spec.model](spec.size, spec.crop_size), Product(1, channels, spec.task.logit_count)]
    for head in auxiliary_heads(spec.heads):
        products.append(Product(voxels(size), channels, HEADS[head].outputs(spec.task)))
    forward = sum(product.forward for product in products)
    return Flops(forward, forward + sum(product.backward for product in products))
