"""Multi-head attention of queries that are scaled already."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attention(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """softmax(queries keys^T + bias) values, the softmax in float32 at least.

    queries [..., Q, heads, d], keys [..., K, heads, d], values [..., K, heads, c], bias broadcastable to
    [..., heads, Q, K]; returns [..., Q, heads, c] in the type of `values`.
    """
    # Heads first, as torchvision has them: XLA's CPU takes four times as long over products with a batch axis inside.
    queries, keys, values = (jnp.swapaxes(part, -2, -3) for part in (queries, keys, values))
    accumulate = jnp.promote_types(queries.dtype, jnp.float32)
    logits = jnp.matmul(queries, jnp.swapaxes(keys, -1, -2), preferred_element_type=accumulate) + bias
    weights = jax.nn.softmax(logits, axis=-1).astype(values.dtype)
    return jnp.swapaxes(jnp.matmul(weights, values), -2, -3)
