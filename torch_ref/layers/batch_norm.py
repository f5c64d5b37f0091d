"""torch.nn.BatchNorm3d over the cases of all processes, with one collective each way.

nn.SyncBatchNorm computes the same, but on GPUs alone, and its collectives are Python that torch.compile cannot trace:
it would part the step's graph at every layer.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor, nn

# The name before PyTorch 2.14, and since.
_all_gather = getattr(collectives, "all_gather_single", None) or collectives.all_gather_tensor


class GlobalBatchNorm3d(nn.BatchNorm3d):
    """What `with_global_batch_norm` makes of one. All processes have equally large batches."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W]; normalised by the statistics of all processes' x in training. Statistics are in the
        parameters' type."""
        if not self.training:
            return super().forward(x)
        wide = x.to(self.weight.dtype)
        variance, mean = torch.var_mean(wide, (0, 2, 3, 4), correction=0)
        mean, variance = _StatisticsOfAll.apply(mean, variance)
        self._update_running(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        factor = torch.rsqrt(variance + self.eps) * self.weight
        return ((wide - _by_channel(mean)) * _by_channel(factor) + _by_channel(self.bias)).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)


def _everybody() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.group.WORLD)


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]


class _StatisticsOfAll(torch.autograd.Function):
    """Mean and biased variance [C] of equally large parts to those of the whole (Chan et al. 1983).

    The loss of every process depends on the whole's, so each one's gradient counts.
    """

    @staticmethod
    def forward(context: Any, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.stack([mean, variance])
        means, variances = _all_gather(own, 0, _everybody()).view(-1, *own.shape).unbind(1)
        mean_of_all = means.mean(0)
        context.save_for_backward(mean - mean_of_all)
        return mean_of_all, variances.mean(0) + (means - mean_of_all).square().mean(0)

    @staticmethod
    def backward(context: Any, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, Tensor]:
        (offset,) = context.saved_tensors
        total = collectives.all_reduce(torch.stack([of_mean, of_variance]), "sum", _everybody())
        of_mean, of_variance = (total / dist.get_world_size()).unbind(0)
        return of_mean + 2 * offset * of_variance, of_variance
