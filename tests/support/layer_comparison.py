"""A layer of the JAX port against the PyTorch one it ports, in float64: output and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn

from jax_impl.weights import Entry, Path


def assert_same_output_and_gradients(
    layer: Any, call: Callable[[Any, jax.Array], jax.Array], reference: nn.Module, torch_call: Any, x: np.ndarray
) -> None:
    """Give the JAX layer the reference's weights; `call(layer, x)` and `torch_call(x)` must agree, and so must the
    gradients of a random weighting of the output with respect to x and to every parameter."""
    torch_x = torch.tensor(x, requires_grad=True)
    expected: Tensor = torch_call(torch_x)
    weight = np.random.default_rng(1).standard_normal(tuple(expected.shape))
    names, parameters = zip(*reference.named_parameters(), strict=True)
    gradients = torch.autograd.grad((expected * torch.tensor(weight)).sum(), (torch_x, *parameters))
    theirs = dict(zip(names, gradients[1:], strict=True))
    table = [*layer.weight_table("", ())]
    graph, state = nnx.split(layer)
    with jax.enable_x64(True):
        tree: Any = nnx.to_pure_dict(state)
        for entry in table:
            _at(tree, entry.path[:-1])[entry.path[-1]] = jnp.asarray(
                entry.to_jax(reference.get_parameter(_name(entry)).detach().numpy())
            )

        @jax.jit
        def run(tree: Any, x: jax.Array) -> Any:
            def weighted(tree: Any, x: jax.Array) -> Any:
                y = call(nnx.merge(graph, tree), x)
                return (y * weight).sum(), y

            return jax.grad(weighted, (0, 1), has_aux=True)(tree, x)

        (found_tree, found_x), found = run(tree, jnp.asarray(x))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found_x, gradients[0], rtol=1e-9, atol=1e-10)
    assert {_name(entry) for entry in table} == set(names)
    for entry in table:
        found_gradient = entry.to_canonical(_at(found_tree, entry.path))
        np.testing.assert_allclose(found_gradient, theirs[_name(entry)], rtol=1e-8, atol=1e-9, err_msg=entry.name)


def _name(entry: Entry) -> str:
    return entry.name.removeprefix(".")


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree
