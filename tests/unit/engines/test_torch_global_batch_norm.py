"""BatchNorm over several processes, in a group of one: what several compute is compared in tests/parallel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from anatobench.system.processes import ALONE, Processes
from torch_ref import parallel
from torch_ref.layers.batch_norm import GlobalBatchNorm3d

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pair(dtype: torch.dtype = torch.float32) -> tuple[nn.BatchNorm3d, nn.BatchNorm3d]:
    plain, ours = nn.BatchNorm3d(3, dtype=dtype), nn.BatchNorm3d(3, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in (plain.weight, plain.bias, plain.running_mean):
            assert values is not None
            values.copy_(torch.randn(3, generator=generator))
    ours.load_state_dict(plain.state_dict())
    ours = parallel.with_global_batch_norm(ours, CPU, Processes(0, 2), compiling=False)
    assert type(ours) is GlobalBatchNorm3d
    return plain, ours


@pytest.mark.parametrize("training", [True, False])
def test_is_batch_norm(training: bool) -> None:
    found = []
    for norm in pair(torch.float64):
        x = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        y = norm.train(training)(x.requires_grad_())
        (y * torch.sin(x.detach())).sum().backward()
        found.append([y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


def test_a_mean_far_from_zero_takes_no_digits_of_the_variance() -> None:
    plain, ours = pair()
    x = 1000 + torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    exact = plain.double()(x.double())
    torch.testing.assert_close(ours(x).double(), exact, rtol=0, atol=2e-3)


def test_bfloat16_is_rounded_once() -> None:
    plain, ours = pair()
    x = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    y = ours(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), plain(x.float()), rtol=2**-8, atol=1e-5)


def test_who_is_alone_or_leaves_a_gpu_to_its_kernels_has_pytorchs() -> None:
    def kind(device: str, processes: Processes, compiling: bool) -> type:
        norm = nn.BatchNorm3d(3)
        return type(parallel.with_global_batch_norm(norm, torch.device(device), processes, compiling))

    assert kind("cuda", ALONE, True) is nn.BatchNorm3d
    assert kind("cuda", Processes(0, 2), False) is nn.SyncBatchNorm
    assert kind("cuda", Processes(0, 2), True) is GlobalBatchNorm3d
