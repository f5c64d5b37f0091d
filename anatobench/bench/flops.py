"""One count of floating-point operations for both frameworks, so that utilisation means the same in each.

Convolutions and matrix products count, a multiply and an add as two operations; normalisation, activations and
upsampling are memory traffic and do not. The count is of what the mathematics asks for, not of what a kernel happens
to execute: padding taps count as the convolution's definition has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from anatobench.engine import ModelSpec
from anatobench.errors import UsageError
from anatobench.tasks import Size


@dataclass(frozen=True)
class Flops:
    """Operations for one case."""

    forward: int
    training: int
    """Forward, gradient of every weight, and gradient of every input but the scan itself."""


@dataclass(frozen=True)
class _Convolution:
    kernel_voxels: int
    channels_in: int
    channels_out: int
    output_voxels: int
    needs_input_gradient: bool = True

    @property
    def forward(self) -> int:
        return 2 * self.kernel_voxels * self.channels_in * self.channels_out * self.output_voxels


def count(spec: ModelSpec) -> Flops:
    """Operations per case of that model at `spec.crop_size`, with the segmentation head if it has one."""
    if spec.model != "r3d_18":
        raise UsageError(f"model {spec.model!r} has no FLOP count yet: r3d_18 has")
    layers = _r3d_18_layers(spec)
    forward = sum(layer.forward for layer in layers)
    backward = sum(layer.forward * (2 if layer.needs_input_gradient else 1) for layer in layers)
    return Flops(forward, forward + backward)


def _r3d_18_layers(spec: ModelSpec) -> list[_Convolution]:
    full = spec.size == "full"
    width, blocks, strides = (64, 2, (1, 2, 2, 2)) if full else (16, 1, (1, 2, 2, 1))
    size = _strided(spec.crop_size, kernel=2, stride=2, padding=0)
    layers = [_Convolution(8, 1, width, _voxels(size), needs_input_gradient=False)]
    channels = width
    for stage, stride in enumerate(strides):
        planes = width * 2**stage
        for block in range(blocks):
            block_stride = stride if block == 0 else 1
            size = _strided(size, kernel=3, stride=block_stride, padding=1)
            if block_stride != 1 or channels != planes:
                layers.append(_Convolution(1, channels, planes, _voxels(size)))
            layers.append(_Convolution(27, channels, planes, _voxels(size)))
            layers.append(_Convolution(27, planes, planes, _voxels(size)))
            channels = planes
    layers.append(_Convolution(1, channels, spec.task.logit_count, 1))
    if spec.segmentation:
        layers.append(_Convolution(1, channels, spec.task.segmentation_classes, _voxels(size)))
    return layers


def _strided(size: Size, kernel: int, stride: int, padding: int) -> Size:
    d, h, w = ((length + 2 * padding - kernel) // stride + 1 for length in size)
    return d, h, w


def _voxels(size: Size) -> int:
    return size[0] * size[1] * size[2]


PEAK_TFLOPS = {
    # Dense peaks of the vendor's data sheets (SXM form): bf16 and tf32 on tensor cores, fp32 and fp64 without.
    "H200": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp64": 33.5},
    "H100": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp64": 33.5},
    "A100": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5, "fp64": 9.7},
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """The device's peak in operations per second, None where it is not known (a CPU, another GPU)."""
    for name, peaks in PEAK_TFLOPS.items():
        if name in device_name:
            return peaks[precision] * 1e12
    return None
