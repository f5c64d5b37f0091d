"""Time the Triton kernels of torch_ref/layers on this GPU, forward and backward, against plain PyTorch.

    python benchmarks/layers.py [--repeat 30] [--only TEXT] [--out FILE]

Sizes are those of the paper's batches in bf16. Beside each time stands the least that its bytes can take, every tensor
read or written once at the speed of a plain copy on this GPU, measured in the same run; and by how much the kernel's
results differ from the plain form's in float32. Prints a table to stderr and the record, one JSON line, to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from anatobench.system.host import describe_code, describe_host
from anatobench.tasks import Size
from torch_ref.layers import depthwise_conv3d as depthwise_layer
from torch_ref.layers.segmentation_kernels import segmentation_loss_fused, segmentation_loss_plain
from torch_ref.layers.triton_language import AVAILABLE
from torch_ref.layers.window_kernels import window_attention, window_attention_plain

WARM_UP = 3
SCRATCH = 2**30
"""Bytes overwritten before every measurement: nothing is left in a cache, and launching is not waited for."""


@dataclass(frozen=True)
class Case:
    """One layer at one size. Inputs that require a gradient get one."""

    name: str
    fast: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def depthwise_case(
    device: torch.device, shape: tuple[int, ...], heads: int, stride: Size, walking: bool = False
) -> Case:
    """`shape` [B, D, H, W, C]."""

    def fast(x: Tensor, kernel: Tensor) -> Tensor:
        with patch.object(depthwise_layer, "WALK", walking):
            return depthwise_layer.depthwise_conv3d(x, kernel, stride)

    x = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
    kernel = torch.randn(3, 3, 3, shape[-1] // heads, device=device, requires_grad=True)
    plain = partial(depthwise_layer.depthwise_conv3d_plain, stride=stride)
    name = f"depthwise_conv3d {list(shape)} {heads} heads, stride {list(stride)}{', walking' if walking else ''}"
    return Case(name, fast, plain, (x, kernel))


def segmentation_case(device: torch.device, batch: int, classes: int, coarse: Size, size: Size, kind: str) -> Case:
    """`coarse` and `size` are the maps' before and after upsampling."""
    logits = torch.randn(batch, classes, *coarse, device=device, requires_grad=True)
    organs = torch.randint(0, classes, (batch, *size), device=device, dtype=torch.uint8)
    fast, plain = (partial(form, kind=kind, smooth=1e-5) for form in (segmentation_loss_fused, segmentation_loss_plain))
    return Case(f"segmentation {kind} {list(logits.shape)} to {list(size)}", fast, plain, (logits, organs))


def window_case(device: torch.device, cases: int, windows: int, heads: int, n: int, d: int) -> Case:
    """`windows` of each case; q, k and v lie in memory as their common layer writes them."""
    qkv = torch.randn(cases * windows, n, 3, heads, d, device=device, dtype=torch.bfloat16)
    q, k, v = (part.requires_grad_() for part in qkv.permute(2, 0, 3, 1, 4).unbind())
    bias = torch.randn(heads, n, n, device=device, requires_grad=True)
    regions = torch.randint(0, 8, (windows, n), device=device, dtype=torch.int32)
    return Case(f"window_attention {list(q.shape)}", window_attention, window_attention_plain, (q, k, v, bias, regions))


BUILDERS: tuple[Callable[[torch.device], Case], ...] = (
    *(
        partial(depthwise_case, shape=shape, heads=heads, stride=stride, walking=walking)
        for shape, heads, stride in (
            ((4, 6, 96, 96, 96), 1, (1, 1, 1)),
            ((4, 6, 96, 96, 96), 1, (1, 8, 8)),
            ((4, 6, 24, 24, 384), 4, (1, 1, 1)),
        )
        for walking in (False, True)
    ),
    partial(segmentation_case, batch=10, classes=7, coarse=(6, 12, 12), size=(96, 192, 192), kind="ce"),
    partial(segmentation_case, batch=10, classes=7, coarse=(6, 12, 12), size=(96, 192, 192), kind="ce_dice"),
    partial(segmentation_case, batch=6, classes=6, coarse=(10, 11, 12), size=(160, 176, 192), kind="ce"),
    partial(window_case, cases=6, windows=196, heads=3, n=294, d=32),
    partial(window_case, cases=6, windows=16, heads=12, n=294, d=32),
    partial(window_case, cases=4, windows=364, heads=3, n=392, d=32),
)


def measure(case: Case, times: Callable[[Callable[[], Any]], float], bandwidth: float) -> dict[str, Any]:
    """Milliseconds of a case; `times` gives those of one call, `bandwidth` is in bytes per second."""
    leaves = [x for x in case.inputs if x.requires_grad]
    record: dict[str, Any] = {"name": case.name}
    for name, form in (("kernel", case.fast), ("plain", case.plain)):
        output = form(*case.inputs)
        gradient = torch.randn_like(output)
        record[f"forward_{name}_ms"] = times(partial(form, *case.inputs))
        record[f"backward_{name}_ms"] = times(partial(torch.autograd.grad, output, leaves, gradient, retain_graph=True))
    read = sum(x.nbytes for x in case.inputs)
    record["forward_bytes_ms"] = 1000 * (read + output.nbytes) / bandwidth
    record["backward_bytes_ms"] = 1000 * (read + output.nbytes + sum(x.nbytes for x in leaves)) / bandwidth
    return {**record, "difference": difference(case)}


def difference(case: Case) -> list[float]:
    """Return, for the output and every gradient, the largest difference from the plain form in float32, by its
    largest value."""
    leaves = [x for x in case.inputs if x.requires_grad]
    output = case.fast(*case.inputs)
    gradient = torch.randn_like(output)
    mine = [output, *torch.autograd.grad(output, leaves, gradient)]
    exact = [x.detach().float().requires_grad_() if x.requires_grad else x for x in case.inputs]
    output = case.plain(*exact)
    theirs = [output, *torch.autograd.grad(output, [x for x in exact if x.requires_grad], gradient.to(output.dtype))]
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(mine, theirs, strict=True)]


class GpuClock:
    """Median milliseconds of a call, by the GPU's own events."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._scratch = torch.empty(SCRATCH, dtype=torch.uint8, device=device)
        self._repeats = repeats

    def __call__(self, function: Callable[[], Any]) -> float:
        for _ in range(WARM_UP):
            function()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self._repeats)]
        for start, end in events:
            self._scratch.zero_()
            start.record()
            function()
            end.record()
        torch.cuda.synchronize()
        return float(median(start.elapsed_time(end) for start, end in events))

    def copy_bandwidth(self) -> float:
        """Bytes per second, read and written, of a large copy."""
        target = torch.empty_like(self._scratch)
        return 1000 * 2 * SCRATCH / self(lambda: target.copy_(self._scratch))


def table(record: dict[str, Any]) -> str:
    """For a person: milliseconds, and times the least that the bytes take."""
    lines = [f"{record['gpu']}, {record['copy_bytes_per_s'] / 1e12:.2f} TB/s; milliseconds"]
    for layer in record["layers"]:
        if "error" in layer:
            lines.append(f"{layer['name']}: {layer['error']}")
            continue
        lines.append(f"{layer['name']}, difference {', '.join(f'{value:.1e}' for value in layer['difference'])}")
        for way in ("forward", "backward"):
            kernel, plain, least = (layer[f"{way}_{what}_ms"] for what in ("kernel", "plain", "bytes"))
            lines.append(f"  {way:8} kernel {kernel:8.3f}  plain {plain:8.3f}  bytes {least:8.3f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30, help="measurements of each (default %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose names contain it")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file as well")
    args = parser.parse_args(argv)
    if not (torch.cuda.is_available() and AVAILABLE):
        print("layers: needs an NVIDIA GPU and Triton: this machine or this build of torch has none", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    torch.manual_seed(0)
    clock = GpuClock(device, args.repeat)
    record: dict[str, Any] = {
        **{"kind": "layers", "gpu": torch.cuda.get_device_name(device), "torch": torch.__version__},
        **{"code": describe_code(), "machine": describe_host(), "repeats": args.repeat},
        **{"copy_bytes_per_s": clock.copy_bandwidth(), "layers": []},
    }
    for build in BUILDERS:
        case = build(device)
        if args.only in case.name:
            try:
                record["layers"].append(measure(case, clock, record["copy_bytes_per_s"]))
            except Exception as error:  # the other layers' figures are wanted all the same
                record["layers"].append({"name": case.name, "error": f"{type(error).__name__}: {error}"})
    print(table(record), file=sys.stderr)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 1 if any("error" in layer for layer in record["layers"]) else 0


if __name__ == "__main__":
    sys.exit(main())
