"""MViT-v2's decomposed relative positions (torchvision/models/video/mvit.py, `_add_rel_pos`), folded into the keys.

torchvision adds to the logit of a query and a key q . (R_t + R_h + R_w), each R a row of a table, picked by the
distance of the two along one axis. The three products with every distance a query can have are a few numbers per
query, and a key picks one per axis: so they are appended to the query, and three one-hot positions to the key. Their
dot product is the same sum, attention needs no bias, and no array of queries by keys exists but the logits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anatobench.tasks import Size
from jax_impl.layers.upsampling import interpolation_matrix


def positional_terms(queries: jax.Array, tables: tuple[jax.Array, ...], query_grid: Size, key_grid: Size) -> jax.Array:
    """Return what the query gives a key at each depth, row and column.

    queries [B, 1 + t h w, heads, d], unscaled, class token first; tables (depth, height, width), each [distances, d].
    Returns [B, 1 + t h w, heads, k_t + k_h + k_w], zero for the class token, which has no position.
    """
    batch, _, heads, channels = queries.shape
    patches = queries[:, 1:].reshape(batch, *query_grid, heads, channels)
    terms = []
    for axis, (table, subscripts) in enumerate(zip(tables, ("tkc", "hkc", "wkc"), strict=True)):
        rows = relative_rows(table, query_grid[axis], key_grid[axis]).astype(queries.dtype)
        terms.append(jnp.einsum(f"bthwnc,{subscripts}->bthwnk", patches, rows))
    flat = jnp.concatenate(terms, -1).reshape(batch, -1, heads, sum(key_grid))
    return jnp.pad(flat, ((0, 0), (1, 0), (0, 0), (0, 0)))


def one_hot_positions(grid: Size) -> np.ndarray:
    """float32 [1 + t h w, t + h + w]: depth, row and column of every key; zeros for the class token."""
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    one_hot = [np.eye(length, dtype=np.float32)[places[:, axis]] for axis, length in enumerate(grid)]
    return np.pad(np.concatenate(one_hot, 1), ((1, 0), (0, 0)))


def relative_rows(table: jax.Array, queries: int, keys: int) -> jax.Array:
    """Return [queries, keys, d]: the table's row for each pair along one axis. A table of another length is
    interpolated."""
    needed = 2 * max(queries, keys) - 1
    if table.shape[0] != needed:
        matrix = jnp.asarray(interpolation_matrix(table.shape[0], needed), table.dtype)
        table = jnp.matmul(matrix, table, precision=lax.Precision.HIGHEST)
    return table[relative_index(queries, keys)]


def relative_index(queries: int, keys: int) -> np.ndarray:
    """int32 [queries, keys]: distance in steps of the finer of the two grids, from 0, truncated.

    In float32 and in this order because torchvision's is: a product that rounds below an integer picks another row.
    """
    query_ratio, key_ratio = np.float32(max(keys / queries, 1.0)), np.float32(max(queries / keys, 1.0))
    query = np.arange(queries, dtype=np.float32)[:, None] * query_ratio
    key = (np.arange(keys, dtype=np.float32)[None, :] + np.float32(1.0 - keys)) * key_ratio
    return (query - key).astype(np.int32)
