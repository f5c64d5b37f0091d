"""Multi-head attention of queries that are scaled already: as products, and by PyTorch's fused kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ALIGNMENT = 8
"""What channels are padded to, with zeros that change nothing: the fused kernels refuse odd numbers of them."""
ALL_BUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""cuDNN's takes a bias, but has no gradient for it and ends the step when asked for one."""
CUDNN_CHANNELS = 128
"""To which cuDNN's backward pass was seen to work (MViT's chest). The abdomen has 136: not measured, so not asked."""


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(queries keys^T + bias) values.

    queries [B, heads, Q, d], keys [B, heads, K, d], values [B, heads, K, c], bias broadcastable to [B, heads, Q, K];
    returns [B, heads, Q, c].
    """
    logits = queries @ keys.transpose(-2, -1)
    return torch.softmax(logits if bias is None else logits + bias, -1) @ values


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the same, of the same shapes, without an array [B, heads, Q, K], where PyTorch has a kernel for the device
    and the type."""
    channels = values.shape[-1]
    width = -(-max(channels, queries.shape[-1]) // ALIGNMENT) * ALIGNMENT
    queries, keys, values = (_widened(part, width) for part in (queries, keys, values))
    if bias is None and width <= CUDNN_CHANNELS:
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    else:
        with sdpa_kernel(ALL_BUT_CUDNN):
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
    return attended[..., :channels]


def _widened(part: Tensor, width: int) -> Tensor:
    """With channels of zeros up to `width`; itself if there are none to add, where padding would copy."""
    return part if part.shape[-1] == width else F.pad(part, (0, width - part.shape[-1]))
