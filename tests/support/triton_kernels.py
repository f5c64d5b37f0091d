"""Triton kernels without a GPU: run in Python by its interpreter, and compiled ahead of time by its compiler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that one program may have, by compute capability (CUDA C++ Programming Guide, table of technical limits)."""
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.uint8: "*u8"}


def require_compiler() -> None:
    """Skip the test unless Triton can compile for NVIDIA GPUs, which takes no GPU."""
    triton = pytest.importorskip("triton", reason="needs Triton, which CPU builds of torch come without")
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: Triton's functions are not compilable in this process")
    try:
        assert triton.knobs.nvidia.ptxas.path
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"needs ptxas: {error}")


def compile_kernel(
    kernel: Any,
    capability: int,
    pointers: Mapping[str, torch.dtype],
    constants: Mapping[str, Any],
    divisible: Collection[str] = (),
    **options: int,
) -> Any:
    """Return the kernel for a GPU of `capability`; all that is neither pointer nor constant is an int32.

    Pointers and `divisible` are taken for multiples of 16, as a launch finds them to be.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kinds = {name: POINTERS[dtype] for name, dtype in pointers.items()} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in kernel.arg_names},
        constexprs={name: value for name, value in constants.items() if name in kernel.arg_names},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(kernel.arg_names)
            if name in pointers or name in divisible
        },
    )
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def outputs_and_gradients(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """Return the output of `function`, and the gradients of every floating input for a fixed random gradient of the
    output, whose values every type holds exactly."""
    leaves = [x.detach().clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
    output = function(*leaves)
    weights = torch.randint(-8, 9, output.shape, generator=torch.Generator().manual_seed(5)) / 4
    output.backward(weights.to(output.dtype))
    return [output.detach(), *(x.grad for x in leaves if x is not None and x.grad is not None)]
