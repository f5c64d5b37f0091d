"""What a GPU can do at most by its vendor's data sheet."""

from __future__ import annotations

PEAK_TFLOPS = {
    # Dense products (the data sheets print twice as much for structured sparsity), bf16 and tf32 on tensor cores, fp32
    # without, fp64 without, to the digits of the data sheet or of the architecture's white paper. The first entry whose
    # words are all in the device's name holds, so the slower forms of a chip come first.
    # https://www.nvidia.com/en-us/data-center/h200/ (NVL; SXM)
    ("H200", "NVL"): {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0, "fp64": 30.0},
    ("H200",): {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp64": 33.5},
    # https://www.nvidia.com/en-us/data-center/h100/ and the Hopper white paper's table 2 (PCIe; NVL; SXM)
    ("H100", "PCIe"): {"bf16": 756.5, "tf32": 378.0, "fp32": 51.2, "fp64": 25.6},
    ("H100", "NVL"): {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0, "fp64": 30.0},
    ("H100",): {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp64": 33.5},
    # https://www.nvidia.com/en-us/data-center/a100/ (all forms)
    ("A100",): {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5, "fp64": 9.7},
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Return the device's peak in operations per second; None where it is not known (a CPU, another GPU, a part of
    one)."""
    if "MIG" in device_name:
        return None
    for words, peaks in PEAK_TFLOPS.items():
        if all(word in device_name for word in words):
            return peaks[precision] * 1e12
    return None
