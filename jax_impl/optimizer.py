"""AdamW with the gradient clipped by its global norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from anatobench.objectives.objective import Phase
from anatobench.recipes import Recipe

Tree = Any
"""Nested dicts of arrays; None where a part of a tree has no array."""
Group = str
"""The places of the phases that train a parameter, such as `0,1`. Parameters of one group share their step count."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Adam's state."""

    first: Tree
    second: Tree
    counts: dict[Group, jax.Array]
    """Steps taken, each an int32 scalar."""


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay on every parameter; the learning rate multiplies the result at every step.

    What a phase does not train keeps value, moments and step count.
    """

    recipe: Recipe
    phases: tuple[Phase, ...]
    names: Tree
    """The parameters' canonical names in the parameters' structure."""

    def group_of(self, name: str) -> Group:
        """Return the group of the parameter of that canonical name."""
        return ",".join(str(index) for index, phase in enumerate(self.phases) if phase.trains(name))

    def init(self, parameters: Tree) -> Moments:
        """Zeros."""
        groups = sorted({self.group_of(name) for name in jax.tree.leaves(self.names)})
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return Moments(zeros, jax.tree.map(jnp.copy, zeros), {group: jnp.zeros((), jnp.int32) for group in groups})

    def trained_in(self, phase: Phase) -> Tree:
        """Return whether the phase trains each parameter."""
        return jax.tree.map(phase.trains, self.names)

    def clip_and_update(
        self, phase: Phase, learning_rate: jax.Array, gradients: Tree, moments: Moments, parameters: Tree
    ) -> tuple[Tree, Moments, jax.Array]:
        """Scale the gradients by min(1, clip_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does (optax's own
        clipping has no 1e-6), take one AdamW step; new parameters, new moments and the norm before, a scalar.

        `learning_rate` is a scalar; `gradients` has None where the phase trains nothing.
        """
        norm = optax.tree.norm(gradients)
        scale = jnp.minimum(1.0, self.recipe.clip_norm / (norm + 1e-6))
        gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
        place = str(self.phases.index(phase))
        for group in moments.counts:
            if place in group.split(","):
                parameters, moments = self._update(group, learning_rate, gradients, moments, parameters)
        return parameters, moments, norm

    def _update(
        self, group: Group, learning_rate: jax.Array, gradients: Tree, moments: Moments, parameters: Tree
    ) -> tuple[Tree, Moments]:
        recipe = self.recipe
        adam = optax.scale_by_adam(recipe.adam_beta1, recipe.adam_beta2, recipe.adam_epsilon)
        decay = optax.add_decayed_weights(recipe.weight_decay)
        inside = jax.tree.map(lambda name: self.group_of(name) == group, self.names)
        own = select(parameters, inside)
        state = optax.ScaleByAdamState(
            moments.counts[group], select(moments.first, inside), select(moments.second, inside)
        )
        updates, state = adam.update(select(gradients, inside), state)
        updates, _ = decay.update(updates, optax.EmptyState(), own)
        own = jax.tree.map(lambda p, update: p - learning_rate * update, own, updates)
        found = Moments(
            merge(state.mu, moments.first), merge(state.nu, moments.second), {**moments.counts, group: state.count}
        )
        return merge(own, parameters), found


def select(tree: Tree, wanted: Tree) -> Tree:
    """Return the tree with None where it is not wanted."""
    return jax.tree.map(lambda keep, leaf: leaf if keep else None, wanted, tree)


def merge(part: Tree, whole: Tree) -> Tree:
    """Return the whole tree with the arrays that the part has in their places."""
    return jax.tree.map(
        lambda own, other: other if own is None else own, part, whole, is_leaf=lambda leaf: leaf is None
    )
