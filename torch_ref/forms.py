"""Which fast forms (anatobench/fast_forms.py) PyTorch takes by default, by which measurement, and how to leave them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DEFAULT_FORMS = {
    "cuda": frozenset(
        {
            # H100, bf16, chest, the paper's batches; before -> after (benchmarks/results/README.md):
            "segmentation",  # r3d_18 130.9 -> 88.3 ms with products for the upsampling and a fused AdamW
            "depthwise",  # mvit_v2_s 626 -> 156 ms with the attention
            "attention",
            "window_attention",  # swin3d_t 150.7 -> 96.4 ms, compiled 54.6 -> 45.2 ms
        }
    ),
    "cpu": frozenset(),
}
"""By device type. `segmentation_kernel` and `window_kernel` are not measured yet, so nobody gets them unasked.
`batch_norm` is none of PyTorch's: it is what compiling the step makes of BatchNorm."""

HOPPER = 9
ATTENTION_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""In this order on Hopper, forward and backward of MViT's first block on an H100: 2.3, 4.2, 9.9 ms."""


@contextlib.contextmanager
def preferred_kernels(device: torch.device) -> Iterator[None]:
    """PyTorch's own order of attention kernels, but where another was measured to be faster."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER:
        with sdpa_kernel(ATTENTION_KERNELS, set_priority=True):
            yield
    else:
        yield


@contextlib.contextmanager
def plain_forms(model: nn.Module) -> Iterator[None]:
    """Let every layer take its plain form, whose gradient can be differentiated again."""
    switched = [module for module in model.modules() if hasattr(module, "forms")]
    forms = [module.forms for module in switched]
    try:
        for module in switched:
            module.forms = frozenset()  # type: ignore[assignment]
        yield
    finally:
        for module, kept in zip(switched, forms, strict=True):
            module.forms = kept
