"""MViT-v2's decomposed relative positions (torchvision/models/video/mvit.py, `_add_rel_pos`), folded into the keys.

torchvision adds to the logit of a query and a key q . (R_t + R_h + R_w), each R a row of a table, picked by the
distance of the two along one axis. The three products with every distance a query can have are a few numbers per
query, and a key picks one per axis: so they are appended to the query, and three one-hot positions to the key. Their
dot product is the same sum, attention needs no bias, and no array of queries by keys exists but the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anatobench.tasks import Size


def positional_terms(queries: Tensor, rows: Sequence[Tensor], query_grid: Size) -> Tensor:
    """Return what the query gives a key at each depth, row and column.

    queries [B, heads, 1 + t h w, d], unscaled, class token first; rows (depth, height, width), each
    [queries, keys, d] along its axis. Returns [B, heads, 1 + t h w, k_t + k_h + k_w], zero for the class token, which
    has no position.
    """
    patches = queries[:, :, 1:].unflatten(2, query_grid)
    terms = [
        torch.einsum(f"bnthwc,{subscripts}->bnthwk", patches, table.to(queries.dtype))
        for table, subscripts in zip(rows, ("tkc", "hkc", "wkc"), strict=True)
    ]
    flat = torch.cat(terms, -1).flatten(2, 4)
    return torch.nn.functional.pad(flat, (0, 0, 1, 0))


def one_hot_positions(grid: Size) -> np.ndarray:
    """float64 [1 + t h w, t + h + w]: depth, row and column of every key; zeros for the class token."""
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    one_hot = [np.eye(length)[places[:, axis]] for axis, length in enumerate(grid)]
    return np.pad(np.concatenate(one_hot, 1), ((1, 0), (0, 0)))


def relative_rows(table: Tensor, picks: Tensor) -> Tensor:
    """Return [queries, keys, d]: the table's row for each pair along one axis, as a product with `row_picks`, whose
    gradient is a product, too."""
    with torch.autocast(table.device.type, enabled=False):
        return picks.to(table.dtype) @ table


def row_picks(length: int, queries: int, keys: int) -> np.ndarray:
    """float64 [queries, keys, length]: which row of a table of `length` each pair takes; two rows with their weights
    where the table has another length than the distances and is interpolated linearly."""
    needed = 2 * max(queries, keys) - 1
    centres = np.clip((np.arange(needed) + 0.5) * (length / needed) - 0.5, 0.0, length - 1.0)
    weights: np.ndarray = np.maximum(1.0 - np.abs(centres[:, None] - np.arange(length)), 0.0)
    picked: np.ndarray = weights[relative_index(queries, keys)]
    return picked


def relative_index(queries: int, keys: int) -> np.ndarray:
    """int64 [queries, keys]: distance in steps of the finer of the two grids, from 0, truncated.

    In float32 and in this order because torchvision's is: a product that rounds below an integer picks another row.
    """
    query_ratio, key_ratio = np.float32(max(keys / queries, 1.0)), np.float32(max(queries / keys, 1.0))
    query = np.arange(queries, dtype=np.float32)[:, None] * query_ratio
    key = (np.arange(keys, dtype=np.float32)[None, :] + np.float32(1.0 - keys)) * key_ratio
    return (query - key).astype(np.int64)
