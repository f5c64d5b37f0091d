"""Every fast form of the JAX port at once climbs the parity ladder in float64 against the plain reference.

On a CPU the depthwise kernels are interpreted, and the fused attentions are the same padded arrays by plain products.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformer_faults import RECIPE, climb

from anatobench.engine import ModelSpec, load_engine
from anatobench.fast_forms import EVERY, NONE
from anatobench.tasks import Size, get_task


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "crop_size", "steps"),
    [("r3d_18", (12, 20, 24), 2), ("swin3d_t", (20, 22, 26), 0), ("mvit_v2_s", (8, 16, 20), 0)],
)
def test_the_engines_agree(model: str, crop_size: Size, steps: int) -> None:
    """Odd grids; Swin's windows padded on all axes and shifted, a merging of an odd row; poolings that round up."""
    spec = ModelSpec(model, "tiny", get_task("ratic"), crop_size)
    recipe = replace(RECIPE, segmentation_loss="ce_dice")
    reference = load_engine("torch", spec, replace(recipe, fast=NONE))
    assert climb(reference, load_engine("jax", spec, replace(recipe, fast=EVERY)), steps) == []
