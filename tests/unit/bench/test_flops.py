"""The analytic count against PyTorch's own counter on the real models, and against the design's figures."""

from dataclasses import replace

import numpy as np
import pytest

from anatobench.backbones import mvit_v2_s
from anatobench.backbones.products import voxels
from anatobench.bench.flops import count
from anatobench.bench.peaks import peak_flops
from anatobench.bench.random_batch import random_batch
from anatobench.engine import ModelSpec, load_engine
from anatobench.objectives.heads import diagnosis_heads
from anatobench.recipes import MODELS, Recipe
from anatobench.tasks import TASKS, Size

ODD_SIZE = (18, 43, 53)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("task", "crop_size", "segmentation"),
    [("ratic", None, True), ("ct_rate", None, False), ("ct_rate", ODD_SIZE, True)],
)
def test_count_agrees_with_torchs_counter(model: str, task: str, crop_size: Size | None, segmentation: bool) -> None:
    counter = pytest.importorskip("torch.utils.flop_counter")
    crop_size = crop_size or TASKS[task].geometry("tiny").crop_size
    spec = ModelSpec(model, "tiny", TASKS[task], crop_size, diagnosis_heads(segmentation))
    engine = load_engine("torch", spec, Recipe(segmentation_weight=float(segmentation)))
    batch = random_batch(spec, 1, seed=0)

    with counter.FlopCounterMode(display=False) as counted:
        engine.train_step(batch, 1e-4, 0).fetch()
    beyond = kernel_gradients_counted_as_dense(crop_size) if model == "mvit_v2_s" else 0
    assert counted.get_total_flops() == count(spec).training + beyond

    with counter.FlopCounterMode(display=False) as counted:
        engine.predict(batch["volume"])
    without_head = ModelSpec(spec.model, spec.size, spec.task, spec.crop_size, heads=("classifier",))
    assert counted.get_total_flops() == count(without_head).forward, "prediction must not pay for the head"


# XLA counts every operation, softmax and normalisation too, of the program before it is optimised, and leaves out the
# taps of a convolution that fall into the padding. MViT's port carries relative positions in 30 more columns of the
# attention product.
XLA_TO_OURS = {"r3d_18": (0.96, 1.0), "mvit_v2_s": (1.0, 1.15), "swin3d_t": (1.0, 1.05)}


@pytest.mark.slow
@pytest.mark.parametrize("model", XLA_TO_OURS)
def test_count_agrees_with_xlas_cost_analysis(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the training step at full size, where what is no product weighs little."""
    jax = pytest.importorskip("jax")
    pytest.importorskip("flax")
    leave_out_equal_blocks(monkeypatch)
    task = TASKS["ct_rate"]
    crop_size = task.geometry("full").crop_size
    spec = ModelSpec(model, "full", task, crop_size)
    engine = load_engine("jax", spec, Recipe(dropout=False))
    from jax_impl.engine import JaxEngine

    assert isinstance(engine, JaxEngine)
    shapes = {"volume": (crop_size, "int16"), "organs": (crop_size, "uint8"), "targets": ((len(task.groups),), "int8")}
    arrays = {name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, (shape, dtype) in shapes.items()}
    stop = jax.ShapeDtypeStruct((1,), "bool")
    with engine._precision.applied():
        lowered = engine._train_step.lower(0, engine._state, arrays, stop, np.float32(1e-4), np.uint32(0))
        analysis = lowered.cost_analysis()
        assert analysis is not None
        counted = analysis["flops"]
    least, most = XLA_TO_OURS[model]
    assert least < counted / count(spec).training < most


def leave_out_equal_blocks(patch: pytest.MonkeyPatch) -> None:
    """Leave MViT one of the nine blocks that are like the one before them."""
    mvit = mvit_v2_s.LAYOUTS["full"]
    kept = (*range(6), 14, 15)
    shallow = replace(
        mvit,
        channels=(mvit.channels[0], *(mvit.channels[block + 1] for block in kept)),
        heads=tuple(mvit.heads[block] for block in kept),
        query_strides=tuple(mvit.query_strides[block] for block in kept),
        key_value_strides=tuple(mvit.key_value_strides[block] for block in kept),
    )
    patch.setitem(mvit_v2_s.LAYOUTS, "full", shallow)


def kernel_gradients_counted_as_dense(crop_size: Size) -> int:
    """PyTorch's counter takes the kernel's gradient of MViT's depthwise convolutions for one of every channel of a
    head with every other: as many times the operations as a head has channels."""
    table = mvit_v2_s.LAYOUTS["tiny"]
    size, excess = (crop_size[0] // 4, crop_size[1] // 2, crop_size[2] // 2), 0
    for index, heads in enumerate(table.heads):
        channels = table.channels[index + 1]
        query, key_value = table.query_strides[index], table.key_value_strides[index]
        for stride in (query, key_value, key_value):
            pooled = (size[0], -(-size[1] // stride), -(-size[2] // stride))
            excess += 2 * 27 * voxels(pooled) * channels * (channels // heads - 1)
        size = (size[0], -(-size[1] // query), -(-size[2] // query))
    return excess


@pytest.mark.parametrize(
    ("model", "task", "giga_operations"),
    [
        ("r3d_18", "ct_rate", 693),
        ("r3d_18", "ratic", 1059),
        ("mvit_v2_s", "ct_rate", 356),
        ("mvit_v2_s", "ratic", 657),
        ("swin3d_t", "ct_rate", 200),
        ("swin3d_t", "ratic", 441),
    ],
)
def test_full_size_forward(model: str, task: str, giga_operations: int) -> None:
    spec = ModelSpec(model, "full", TASKS[task], TASKS[task].geometry("full").crop_size)
    assert round(count(spec).forward / 1e9) == giga_operations


def test_peak_is_known_by_device_name() -> None:
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_flops("NVIDIA H200", "bf16") == 989.4e12
    assert peak_flops("NVIDIA H200 NVL", "bf16") == 835.5e12
    assert peak_flops("NVIDIA H100 PCIe", "tf32") == 378e12
    assert peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16") is None, "a part of a GPU"
    assert peak_flops("x86_64", "fp32") is None
