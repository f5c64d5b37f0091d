"""Multi-head attention of queries that are scaled already."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def attention(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """softmax(queries keys^T + bias) values, the softmax in float32 at least.

    queries [..., Q, heads, d], keys [..., K, heads, d], values [..., K, heads, c], bias broadcastable to
    [..., heads, Q, K]; returns [..., Q, heads, c] in the type of `values`.
    """
    # Heads first, as torchvision has them: XLA's CPU takes four times as long over products with a batch axis inside.
    queries, keys, values = (jnp.swapaxes(part, -2, -3) for part in (queries, keys, values))
    accumulate = jnp.promote_types(queries.dtype, jnp.float32)
    logits = jnp.matmul(queries, jnp.swapaxes(keys, -1, -2), preferred_element_type=accumulate) + bias
    # The softmax's sum divides the product with the values, which is smaller than the weights, and so is its gradient.
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    sums = weights.sum(-1, keepdims=True)
    attended = jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=accumulate) / sums
    return jnp.swapaxes(attended.astype(values.dtype), -2, -3)


# The fast form: cuDNN's fused kernel, which never writes the logits. It wants 16-bit types, columns in a multiple of
# 8, and even lengths where there is a bias; it is given lengths in a multiple of 8 where there is none.

COLUMNS, LENGTHS, LENGTHS_WITH_BIAS = 8, 8, 2
"""What the number of columns and the numbers of queries and of keys are made a multiple of."""
ABSENT = -1e4
"""The logit of a key that is padding: its weight is 0 in every type."""


def fused_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """As `attention`, but that a bias which is an array is one for the whole batch: [heads, Q, K].

    By cuDNN on a GPU, in bfloat16 and float16. Elsewhere the same padded arrays go through `attention`: neither XLA's
    CPU compiler nor cuDNN in float32 has a fused kernel.
    """
    *batch, query_count, heads, width = queries.shape
    key_count, outputs = keys.shape[-3], values.shape[-1]
    biased = isinstance(bias, jax.Array)
    missing_queries, missing_keys = (
        -count % (LENGTHS_WITH_BIAS if biased else LENGTHS) for count in (query_count, key_count)
    )
    # Queries are 1 and absent keys `ABSENT` in one more column, so that no mask has to be read.
    columns = max(width + (missing_keys > 0), outputs)
    columns += -columns % COLUMNS
    marked = jnp.arange(columns) == width
    absent = jnp.arange(key_count + missing_keys)[:, None, None] >= key_count
    queries, keys, values = (
        _padded(part.reshape(-1, *part.shape[-3:]), missing, columns)
        for part, missing in ((queries, missing_queries), (keys, missing_keys), (values, missing_keys))
    )
    if missing_keys:
        queries = queries + marked.astype(queries.dtype)
        keys = keys + jnp.where(absent & marked, ABSENT, 0).astype(keys.dtype)
    if biased:
        bias = jnp.pad(bias, ((0, 0), (0, missing_queries), (0, missing_keys)))[None]
    attend = _cudnn_attention if cudnn_attends(columns, queries.dtype) else attention
    found = attend(queries, keys, values, bias)[:, :query_count, :, :outputs]
    return found.reshape(*batch, query_count, heads, outputs)


def _padded(part: jax.Array, missing: int, columns: int) -> jax.Array:
    """[B, N, heads, c] to [B, N + missing, heads, columns]."""
    return jnp.pad(part, ((0, 0), (0, missing), (0, 0), (0, columns - part.shape[-1])))


def cudnn_attends(columns: int, dtype: jnp.dtype) -> bool:
    """Return whether cuDNN has a kernel: 256 columns from NVIDIA's Hopper on (compute capability 9), 128 before."""
    if jax.default_backend() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16):
        return False
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return False
    return columns <= (256 if float(device.compute_capability) >= 9 else 128)


def _cudnn_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | float) -> jax.Array:
    """Lengths and columns that fit, bias [1, heads, Q, K] or none."""
    given = bias.astype(queries.dtype) if isinstance(bias, jax.Array) else None
    return jax.nn.dot_product_attention(queries, keys, values, given, scale=1.0, implementation="cudnn")
