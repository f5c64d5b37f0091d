"""benchmarks/layers.py where kernels are interpreted: its cases run, and it says no for want of a GPU."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PATH = Path(__file__).parents[3] / "benchmarks" / "layers.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layers() -> Any:
    spec = importlib.util.spec_from_file_location("layers_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["layers_benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def test_every_kind_of_case_runs_and_agrees(layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.depthwise_layer, "POSITIONS_OF_GRADIENT", layers.depthwise_layer.POSITIONS)
    cases = [
        layers.depthwise_case(CPU, shape=(1, 2, 3, 3, 8), heads=2, stride=(1, 2, 2), walking=True),
        layers.segmentation_case(CPU, 1, 2, (1, 1, 2), (2, 2, 5), "ce_dice"),
    ]
    record: dict[str, Any] = {"gpu": "none", "copy_bytes_per_s": 1e9}
    record["layers"] = [layers.measure(case, seconds, record["copy_bytes_per_s"]) for case in cases]
    assert all(max(layer["difference"]) < 0.02 for layer in record["layers"]), record["layers"]
    # x and y in bfloat16, the kernel in float32: 2 x 144 + 432 in, 2 x 64 out
    assert record["layers"][0]["forward_bytes_ms"] == pytest.approx((288 + 432 + 128) / 1e6)
    text = layers.table(record)
    assert text.count("forward  kernel") == text.count("backward kernel") == 2


def test_window_case_has_the_layout_of_a_model(layers: Any) -> None:
    """(The interpreter multiplies no bfloat16, so that it is not run.)"""
    case = layers.window_case(CPU, cases=2, windows=3, heads=2, n=5, d=4)
    q, k, v, bias, regions = case.inputs
    assert (q.shape, q.stride(), bias.shape, regions.shape) == ((6, 2, 5, 4), (120, 4, 24, 1), (2, 5, 5), (3, 5))
    assert k.storage_offset() == 8
    assert all(part.is_leaf and part.requires_grad for part in (q, k, v, bias))
    exact = [part.detach().float() if part.is_floating_point() else part for part in case.inputs]
    torch.testing.assert_close(case.fast(*exact), case.plain(*exact))


def test_without_a_gpu_it_says_so_in_one_line(
    layers: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert layers.main([]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "needs an NVIDIA GPU" in err
