"""Whole models with every Triton kernel on against their plain forms, in float64: losses and every gradient.

(See test_interpreted.py.) The interpreter takes its time by program, not by element. So there is one case, of a crop
whose maps are as small as they can be and uneven, the kernels' blocks are as large as such a map, and transformers
have the first of their blocks alone.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from shallow_transformers import make_transformers_shallow

from anatobench.engine import ModelSpec, load_engine
from anatobench.parity.comparison import largest_difference
from anatobench.parity.inputs import parity_batch, parity_recipe, perturbed_weights
from anatobench.tasks import RATIC, Size
from torch_ref.layers import depthwise_conv3d, segmentation_kernels, window_kernels

KERNELS = "segmentation_kernel,depthwise,window_kernel"
CROPS: dict[str, Size] = {
    "r3d_18": (4, 8, 6),
    "swin3d_t": (4, 12, 8),  # windows of 5: padded and shifted along one axis, shrunk along the other
    "mvit_v2_s": (4, 8, 10),  # five columns halve to three and two
}
LAUNCHED = {
    "r3d_18": {"segmentation_sums": 1},
    "swin3d_t": {"segmentation_sums": 1, "window_attention": 3},  # blocks
    "mvit_v2_s": {"segmentation_sums": 1, "depthwise_conv3d": 6},  # three poolings in each of two blocks
}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return how often each kernel's operation has run forward."""
    counts: dict[str, int] = {}
    for module, name in (
        (segmentation_kernels, "segmentation_sums"),
        (window_kernels, "window_attention"),
        (depthwise_conv3d, "depthwise_conv3d"),
    ):
        original = getattr(module, f"_{name}")

        def counted(*arguments: object, name: str = name, original: object = original) -> object:
            counts[name] = counts.get(name, 0) + 1
            return original(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(module, f"_{name}", counted)
    return counts


@pytest.mark.parametrize("model", CROPS)
def test_losses_and_gradients(model: str, launched: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise_conv3d, "POSITIONS", 64)
    monkeypatch.setattr(depthwise_conv3d, "POSITIONS_OF_GRADIENT", 64)
    make_transformers_shallow(monkeypatch)
    spec, recipe = ModelSpec(model, "tiny", RATIC, CROPS[model]), parity_recipe("float64", seed=0)
    plain, fast = (load_engine("torch", spec, replace(recipe, fast=forms)) for forms in ("false", KERNELS))
    fast.load_weights(perturbed_weights(plain.weights(), seed=0))
    plain.load_weights(fast.weights())
    batch = parity_batch(spec, 1, seed=0, step=0)
    expected = plain.inspect(batch)
    assert launched == {}
    found = fast.inspect(batch)
    assert launched == LAUNCHED[model]
    assert found.losses == pytest.approx(expected.losses, rel=1e-9)
    assert found.gradients.keys() == expected.gradients.keys()
    difference = largest_difference(expected.gradients, found.gradients)
    assert difference.error < 1e-9, difference.worst
