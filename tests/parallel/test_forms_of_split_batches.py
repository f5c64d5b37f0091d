"""The fast forms of the JAX port see the whole batch when its cases are spread over devices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from anatobench.recipes import Recipe
from jax_impl.layers.batch_norm import fast_batch_norm
from jax_impl.losses.segmentation_by_parts import segmentation_loss_by_parts

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
split = NamedSharding(Mesh(np.array(jax.devices()), ("cases",)), PartitionSpec("cases"))

def batch_norm(x, residual):
    y, mean, variance = fast_batch_norm(x, jnp.ones(3), jnp.zeros(3), residual, True, jnp.float64)
    return (y * jnp.sin(x)).sum(), (y, mean, variance)

def segmentation(coarse, organs):
    losses = segmentation_loss_by_parts(Recipe(segmentation_loss="ce_dice"), coarse, organs)
    return losses.mean(), losses

for function, arrays in (
    (batch_norm, [rng.standard_normal((4, 5, 6, 7, 3)) for _ in range(2)]),
    (segmentation, [rng.standard_normal((4, 3, 2, 2, 2)), rng.integers(0, 3, (4, 37, 5, 4)).astype(np.uint8)]),
):
    program = jax.jit(jax.grad(function, has_aux=True))
    alone = program(*map(jnp.asarray, arrays))
    together = program(*(jax.device_put(array, split) for array in arrays))
    assert jax.tree.leaves(together[0])[0].sharding.is_equivalent_to(split, arrays[0].ndim), "the gradient was gathered"
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
"""


def test_on_two_devices_as_on_one() -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
