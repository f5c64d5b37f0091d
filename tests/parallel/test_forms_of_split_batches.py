"""The fast forms of the JAX port see the whole batch when its cases are spread over devices."""

from __future__ import annotations

import pytest
from child_processes_of_tests import finish
from forked_python import ForkedPython

pytest.importorskip("jax")

pytestmark = pytest.mark.slow

SCRIPT = """
import re
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from anatobench.recipes import Recipe
from jax_impl.layers.batch_norm import fast_batch_norm
from jax_impl.layers.depthwise_conv3d import fast_depthwise_conv3d
from jax_impl.losses.segmentation_by_parts import segmentation_loss_by_parts

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
mesh = Mesh(np.array(jax.devices()), ("cases",))
by_case, everywhere = NamedSharding(mesh, PartitionSpec("cases")), NamedSharding(mesh, PartitionSpec())

def batch_norm(x, residual):
    y, mean, variance = fast_batch_norm(x, jnp.ones(3), jnp.zeros(3), residual, True, jnp.float64)
    return (y * jnp.sin(x)).sum(), (y, mean, variance)

def segmentation(coarse, organs):
    losses = segmentation_loss_by_parts(Recipe(segmentation_loss="ce_dice"), coarse, organs)
    return losses.mean(), losses

def depthwise(x, kernel):
    y = fast_depthwise_conv3d(x, kernel, (1, 2, 2))
    return (y * jnp.sin(y)).sum(), y

for function, arrays, whole in (
    (batch_norm, [rng.standard_normal((4, 5, 6, 7, 3)) for _ in range(2)], []),
    (segmentation, [rng.standard_normal((4, 3, 2, 2, 2)), rng.integers(0, 3, (4, 37, 5, 4)).astype(np.uint8)], []),
    (depthwise, [rng.standard_normal((4, 5, 6, 7, 3))], [rng.standard_normal((3, 3, 3, 3))]),
):
    program = jax.jit(jax.grad(function, range(1 + len(whole)), has_aux=True))
    alone = program(*map(jnp.asarray, arrays + whole))
    split = [*(jax.device_put(array, by_case) for array in arrays), *jax.device_put(whole, everywhere)]
    together = program(*split)
    assert together[0][0].sharding.is_equivalent_to(by_case, arrays[0].ndim), "the gradient was gathered"
    assert not re.search("all-gather|all-to-all|permute", program.lower(*split).compile().as_text()), function
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
"""


def test_on_two_devices_as_on_one() -> None:
    ((status, _, errors),) = finish([ForkedPython(["-c", SCRIPT])])
    assert status == 0, errors[-2000:]
