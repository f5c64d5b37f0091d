"""The shared layouts against torchvision's own builders. Both frameworks read the same table, so the parity ladder,
which compares them with each other, cannot see a wrong number in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.video import mvit, resnet, swin_transformer

from anatobench.backbones import mvit_v2_s, r3d_18, swin3d_t
from anatobench.engine import ModelSpec
from anatobench.tasks import Size, get_task
from jax_impl.models import build_backbone as build_in_jax
from torch_ref.models import build_backbone as build_in_torch

TASK = get_task("ct_rate")
Modules = Any
"""A torchvision model: PyTorch knows of the attributes of a module's modules only at run time."""
PAPERS_PATCH = (16, 2, 2)
"""Table 7; a change to torchvision's own, as is the stem of R3D."""


def torchvisions(build: Callable[..., nn.Module]) -> Modules:
    """As torchvision itself builds it, of shapes alone."""
    with torch.device("meta"):
        return build(num_classes=18)


def reference(model: str) -> Modules:
    """Return this project's changed model at full size, of shapes alone."""
    with torch.device("meta"):
        return build_in_torch(full_size(model))


def full_size(model: str) -> ModelSpec:
    return ModelSpec(model, "full", TASK, TASK.geometry("full").crop_size, heads=("classifier",))


def only(values: set[Any]) -> Any:
    """Return what all of them are."""
    (value,) = values
    return value


def r3d_layout(model: Modules) -> r3d_18.Layout:
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    widths = [block.conv2[0].out_channels for stage in stages for block in stage]
    blocks = only({len(stage) for stage in stages})
    assert widths == [model.stem[0].out_channels * 2**stage for stage in range(4) for _ in range(blocks)]
    assert {block.conv1[0].stride for stage in stages for block in stage[1:]} == {(1, 1, 1)}
    strides = tuple(only(set(stage[0].conv1[0].stride)) for stage in stages)
    return r3d_18.Layout(widths[0], blocks, strides)


def swin_layout(model: Modules) -> swin3d_t.Layout:
    stages = model.features[::2]
    attentions = [[block.attn for block in stage] for stage in stages]
    channels = [only({attention.qkv.in_features for attention in stage}) for stage in attentions]
    assert channels == [channels[0] * 2**stage for stage in range(len(stages))]
    return swin3d_t.Layout(
        patch=model.patch_embed.proj.kernel_size,
        channels=channels[0],
        depths=tuple(len(stage) for stage in stages),
        heads=tuple(only({attention.num_heads for attention in stage}) for stage in attentions),
        window=only({tuple(attention.window_size) for stage in attentions for attention in stage}),
    )


def mvit_layout(model: Modules) -> mvit_v2_s.Layout:
    attentions = [block.attn for block in model.blocks]
    pools = [pool.pool for attention in attentions for pool in (attention.pool_q, attention.pool_k, attention.pool_v)]
    assert {pool.kernel_size for pool in pools} == {(3, 3, 3)}
    return mvit_v2_s.Layout(
        patch=model.conv_proj.kernel_size,
        channels=(model.conv_proj.out_channels, *(attention.output_dim for attention in attentions)),
        heads=tuple(attention.num_heads for attention in attentions),
        query_strides=tuple(in_plane(attention.pool_q.pool.stride) for attention in attentions),
        key_value_strides=tuple(
            only({in_plane(attention.pool_k.pool.stride), in_plane(attention.pool_v.pool.stride)})
            for attention in attentions
        ),
    )


def in_plane(stride: Size) -> int:
    assert stride[0] == 1
    found: int = only(set(stride[1:]))
    return found


def test_r3d_18() -> None:
    theirs, ours = torchvisions(resnet.r3d_18), reference("r3d_18")
    assert r3d_18.LAYOUTS["full"] == r3d_layout(theirs) == r3d_layout(ours)
    assert ours.stem[0].kernel_size == ours.stem[0].stride == (r3d_18.STEM_STRIDE,) * 3 == (2, 2, 2)


def test_swin3d_t() -> None:
    theirs, ours = torchvisions(swin_transformer.swin3d_t), reference("swin3d_t")
    layout = swin3d_t.LAYOUTS["full"]
    assert layout == replace(swin_layout(theirs), patch=PAPERS_PATCH) == swin_layout(ours)
    assert ours.patch_embed.proj.stride == PAPERS_PATCH


def test_mvit_v2_s() -> None:
    theirs, ours = torchvisions(mvit.mvit_v2_s), reference("mvit_v2_s")
    layout = mvit_v2_s.LAYOUTS["full"]
    assert layout == replace(mvit_layout(theirs), patch=PAPERS_PATCH) == mvit_layout(ours)
    assert ours.conv_proj.stride == PAPERS_PATCH


def drop_rates(model: nn.Module) -> list[float]:
    """Return the rate of every block, in order."""
    blocks: list[Modules] = [module for module in model.modules() if hasattr(module, "stochastic_depth")]
    return [block.stochastic_depth.p for block in blocks]


@pytest.mark.parametrize(
    ("model", "build", "rate"),
    [
        ("swin3d_t", swin_transformer.swin3d_t, swin3d_t.STOCHASTIC_DEPTH),
        ("mvit_v2_s", mvit.mvit_v2_s, mvit_v2_s.STOCHASTIC_DEPTH),
    ],
)
def test_stochastic_depth(model: str, build: Callable[..., nn.Module], rate: float) -> None:
    expected = drop_rates(torchvisions(build))
    assert expected[-1] == rate > expected[0] == 0
    assert drop_rates(reference(model)) == expected


PARAMETERS = {"r3d_18": 33_147_794, "swin3d_t": 27_861_240, "mvit_v2_s": 34_280_370}
"""With Table 7's changes and 18 labels at the chest's size: torchvision's models with those layers replaced by hand."""


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameter_count_of_the_reference(model: str) -> None:
    assert sum(parameter.numel() for parameter in reference(model).parameters()) == PARAMETERS[model]


def test_tokens_lie_on_the_grids_that_torchvision_computes() -> None:
    """At odd sizes too, where a pooling rounds up and a patch embedding down."""
    spec = replace(full_size("mvit_v2_s"), size="tiny", crop_size=(18, 43, 53))
    model: Any = build_in_torch(spec)
    x = model._patch_embed(torch.zeros(1, 1, *spec.crop_size))
    grids = [tuple(model.conv_proj(torch.zeros(1, 1, *spec.crop_size)).shape[2:])]
    for block in model.blocks:
        x, grid = block(x, grids[-1])
        grids.append(tuple(grid))
    assert mvit_v2_s.token_grids(mvit_v2_s.LAYOUTS["tiny"], spec.crop_size) == tuple(grids)
    assert len(set(grids)) == 3, "the case must pool"


def port(model: str) -> Any:
    """Return the same model in JAX."""
    return build_in_jax(full_size(model), np.float32, (), np.random.default_rng(0))


# Of the port, what no parameter's shape tells; the shapes are compared where its weights are.


def test_r3d_18_of_the_port() -> None:
    theirs, ours = torchvisions(resnet.r3d_18), port("r3d_18")
    for name in ("layer1", "layer2", "layer3", "layer4"):
        strides = [(block.conv1[0].stride, block.conv2[0].stride) for block in getattr(theirs, name)]
        assert [(block.conv1.conv.stride, block.conv2.conv.stride) for block in getattr(ours, name)] == strides
    assert ours.stem.conv.stride == (2, 2, 2)


def test_swin3d_t_of_the_port() -> None:
    theirs, ours = torchvisions(swin_transformer.swin3d_t), port("swin3d_t")
    blocks = [block for stage in ours.features[::2] for block in stage]
    their_attentions = [block.attn for stage in theirs.features[::2] for block in stage]
    assert [(block.attn.heads, block.attn.window, block.attn.shift) for block in blocks] == [
        (attention.num_heads, tuple(attention.window_size), tuple(attention.shift_size))
        for attention in their_attentions
    ]
    assert [block.drop_rate for block in blocks] == pytest.approx(drop_rates(theirs))


def test_mvit_v2_s_of_the_port() -> None:
    theirs, ours = torchvisions(mvit.mvit_v2_s), port("mvit_v2_s")
    attentions, their_attentions = ([block.attn for block in model.blocks] for model in (ours, theirs))
    assert [attention.heads for attention in attentions] == [attention.num_heads for attention in their_attentions]
    for pool in ("pool_q", "pool_k", "pool_v"):
        strides = [tuple(getattr(attention, pool).pool.stride) for attention in their_attentions]
        assert [getattr(attention, pool).stride for attention in attentions] == strides
    assert [block.drop_rate for block in ours.blocks] == pytest.approx(drop_rates(theirs))
