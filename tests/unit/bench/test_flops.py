"""The analytic count against PyTorch's own counter on the real model, and against the design's figures."""

import pytest

from anatobench.bench.flops import count, peak_flops
from anatobench.bench.step import random_batch
from anatobench.engine import ModelSpec, load_engine
from anatobench.recipes import Recipe
from anatobench.tasks import TASKS


@pytest.mark.parametrize("task", ["ratic", "ct_rate"])
@pytest.mark.parametrize("segmentation", [True, False])
def test_count_agrees_with_torchs_counter(task: str, segmentation: bool) -> None:
    counter = pytest.importorskip("torch.utils.flop_counter")
    spec = ModelSpec("r3d_18", "tiny", TASKS[task], TASKS[task].geometry("tiny").crop_size, segmentation)
    engine = load_engine("torch", spec, Recipe(segmentation_weight=float(segmentation)))
    batch = random_batch(spec, 2, seed=0)

    with counter.FlopCounterMode(display=False) as counted:
        engine.train_step(batch, 1e-4, 0).fetch()
    assert counted.get_total_flops() == 2 * count(spec).training

    with counter.FlopCounterMode(display=False) as counted:
        engine.predict(batch.volume)
    without_head = ModelSpec(spec.model, spec.size, spec.task, spec.crop_size, segmentation=False)
    assert counted.get_total_flops() == 2 * count(without_head).forward, "prediction must not pay for the head"


@pytest.mark.parametrize(("task", "giga_operations"), [("ct_rate", 693), ("ratic", 1059)])
def test_full_size_forward(task: str, giga_operations: int) -> None:
    spec = ModelSpec("r3d_18", "full", TASKS[task], TASKS[task].geometry("full").crop_size)
    assert round(count(spec).forward / 1e9) == giga_operations


def test_peak_is_known_by_device_name() -> None:
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_flops("x86_64", "fp32") is None
