"""What `Recipe.precision` means in PyTorch: parameter and compute types, and the switches before every call."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """The backbone computes in `compute_dtype`; BatchNorm's statistics, heads and losses in `parameter_dtype`."""

    parameter_dtype: torch.dtype
    compute_dtype: torch.dtype
    tensor_float32: bool
    """Whether matrix products and convolutions of float32 may use TF32 tensor cores."""

    @staticmethod
    def named(name: str) -> Precision:
        """Return the precision of one of `recipes.PRECISIONS`."""
        parameter_dtype = torch.float64 if name == "fp64" else torch.float32
        compute_dtype = torch.bfloat16 if name == "bf16" else parameter_dtype
        return Precision(parameter_dtype, compute_dtype, tensor_float32=name == "tf32")

    def set_switches(self) -> None:
        """Set the TF32 switches: they belong to the process, and another engine may have left them otherwise."""
        torch.backends.cuda.matmul.allow_tf32 = self.tensor_float32
        torch.backends.cudnn.allow_tf32 = self.tensor_float32

    def autocast(self, device: torch.device) -> torch.autocast:
        """Around the backbone: its convolutions in bfloat16 where that is the compute type."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16)
