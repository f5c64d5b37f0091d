"""How often the processes talk in a training step: once for all gradients and figures, and for BatchNorm's statistics.

Every collective costs a network's latency, and at hundreds of GPUs little else. So none may come with a layer, but for
BatchNorm's own, whose statistics the next layer waits for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from child_processes_of_tests import finish, together
from forked_python import SHALLOW, SHALLOW_VARIABLE, ForkedPython

from anatobench.recipes import MODELS

SCRIPT = Path(__file__).parents[1] / "support" / "collectives_of_a_step.py"

pytestmark = pytest.mark.slow


def in_two_processes(model: str, *settings: str) -> dict[str, Any]:
    """Count PyTorch's, in the first process. Gradients of twelve channels fill more than one bucket."""
    environment = {SHALLOW_VARIABLE: "12"}
    ended = finish(together([str(SCRIPT), "torch", model, *settings], 2, **environment))
    assert [status for status, *_ in ended] == [0, 0], ended[0][2][-2000:]
    found: dict[str, Any] = json.loads(ended[0][1].splitlines()[-1])
    return found


def on_two_devices(model: str, *settings: str) -> dict[str, Any]:
    """Count JAX's, which shares one program out."""
    ((status, said, errors),) = finish(
        [ForkedPython([str(SCRIPT), "jax", model, *settings], {**os.environ, **SHALLOW})]
    )
    assert status == 0, errors[-2000:]
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.mark.parametrize(("model", "compiled"), [("r3d_18", "true"), *((model, "false") for model in MODELS)])
def test_pytorch(model: str, compiled: str) -> None:
    found = in_two_processes(model, f"compile={compiled}", "fast=true")
    kinds = [(kind, shape) for kind, (shape, *_) in found["collectives"]]
    statistics = [kind for kind, shape in kinds if len(shape) == 2 and shape[0] == 2]
    rest = [(kind, shape) for kind, shape in kinds if not (len(shape) == 2 and shape[0] == 2)]
    # Mean and variance go together: gathered forward, and summed backward.
    assert statistics == ["all_gather"] * found["batch_norms"] + ["all_reduce"] * found["batch_norms"]
    # The figures last, whether to stop among them; before, gradients in DistributedDataParallel's buckets: one of at
    # most 1 MiB first, so that talking begins early, then 25 MiB each.
    assert rest[-1] == ("all_reduce", [6])
    assert all(kind == "all_reduce" for kind, _ in rest)
    gradients = [shape[0] for _, shape in rest[:-1]]
    assert sum(gradients) == found["parameters"]
    assert len(gradients) <= 2
    # One graph of the whole step, whatever is in it.
    assert found["graphs"] == (1 if compiled == "true" else 0)
    assert found["graph_breaks"] == []


# What XLA can merge it does: no gradient waits for another one's sum.
@pytest.mark.parametrize(
    ("model", "fast"),
    [
        ("swin3d_t", "false"),
        ("swin3d_t", "true"),
        # Interpreted, the 36 kernels of `depthwise` are half of the time: test_forms_of_split_batches.py has them.
        ("mvit_v2_s", "attention,segmentation"),
    ],
)
def test_jax_without_batch_norm(model: str, fast: str) -> None:
    found = on_two_devices(model, f"fast={fast}")
    assert found["batch_norms"] == 0
    assert [kind for kind, _ in found["collectives"]] == ["all-reduce"], "one for all gradients and figures"


@pytest.mark.parametrize(
    ("fast", "of_each_norm"),
    [
        ("false", 4),  # forward the mean, then the variance about it; the gradient of both, one after the other
        ("true", 3),  # forward the mean of a sample, then both sums about it; backward both sums
    ],
)
def test_jax_with_batch_norm(fast: str, of_each_norm: int) -> None:
    found = on_two_devices("r3d_18", f"fast={fast}")
    assert {kind for kind, _ in found["collectives"]} == {"all-reduce"}
    of_channels = [all(len(shape) == 1 for shape in shapes) for _, shapes in found["collectives"]]
    # Or fewer: a shortcut's norm shares those of the norm beside it, where neither waits for the other.
    assert found["batch_norms"] < sum(of_channels) <= of_each_norm * found["batch_norms"]
    # Gradients and figures: what the backward pass has before the last norm goes with that norm's, the rest at its end.
    assert of_channels.count(False) == 2
