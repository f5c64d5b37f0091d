"""AdamW with the gradient clipped by its global norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from anatobench.recipes import Recipe

Tree = Any
"""Nested dicts of arrays."""


def build_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Decoupled weight decay on every parameter; the learning rate multiplies the result at every step."""
    return optax.chain(
        optax.scale_by_adam(recipe.adam_beta1, recipe.adam_beta2, recipe.adam_epsilon),
        optax.add_decayed_weights(recipe.weight_decay),
    )


def clip_and_update(
    optimizer: optax.GradientTransformation,
    clip_norm: float,
    learning_rate: jax.Array,
    gradients: Tree,
    state: optax.OptState,
    parameters: Tree,
) -> tuple[Tree, optax.OptState, jax.Array]:
    """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does (optax's own
    clipping has no 1e-6), take one AdamW step; returns new parameters, new state and the norm before."""
    norm = optax.tree.norm(gradients)
    scale = jnp.minimum(1.0, clip_norm / (norm + 1e-6))
    gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
    updates, state = optimizer.update(gradients, state, parameters)
    return jax.tree.map(lambda p, update: p - learning_rate * update, parameters, updates), state, norm
