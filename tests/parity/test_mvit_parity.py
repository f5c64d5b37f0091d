"""MViT-v2-S climbs the parity ladder in float64, and faults that a port of it makes turn it red."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import mvit
from transformer_faults import RECIPE, Plant, climb, in_every, line_changed, method_changed, setting

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.tasks import get_task
from torch_ref.models.diagnosis_model import DiagnosisModel

MODEL = "mvit_v2_s"
# Grids 3x10x18, 3x5x9, 3x3x5: poolings round up, and tables are interpolated to the shorter axis.
CROP = (12, 20, 36)


@pytest.fixture(scope="module")
def jax_engine() -> Engine:
    """Built once: its compiled functions serve every test. (The other tasks climb with the other backbones.)"""
    return load_engine("jax", ModelSpec(MODEL, "tiny", get_task("rad_chestct"), CROP), RECIPE)


@pytest.mark.slow
def test_the_engines_agree(jax_engine: Engine) -> None:
    assert climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=2) == []


def exchanged(right: Any) -> Any:
    return lambda attn, q, q_thw, k_thw, height, width, depth: right(attn, q, q_thw, k_thw, width, height, depth)


def with_class_token(right: Any) -> Any:
    """Return the mean over one token more."""
    return lambda model, features: right(model, features * (features[0, 0].numel() / (features[0, 0].numel() + 1)))


FAULTS: dict[str, tuple[Plant, str]] = {
    "LayerNorm epsilon 1e-5": (in_every(nn.LayerNorm, setting(eps=1e-5)), "stage blocks.0"),
    "tanh GELU": (in_every(nn.GELU, setting(approximate="tanh")), "stage blocks.0"),
    "relative positions rounded": (
        line_changed(mvit, "_add_rel_pos", "dist_w.long()", "dist_w.round().long()"),
        "stage blocks.0",
    ),
    "relative positions of the scaled query": (
        line_changed(mvit, "_add_rel_pos", "r_q = q[:, :, 1:]", "r_q = dim**-0.5 * q[:, :, 1:]"),
        "stage blocks.0",
    ),
    "height and width exchanged": (
        lambda monkeypatch: monkeypatch.setattr(mvit, "_add_rel_pos", exchanged(mvit._add_rel_pos)),
        "stage blocks.0",
    ),
    "residual with the class token": (
        in_every(mvit.MultiscaleAttention, setting(residual_with_cls_embed=True)),
        "stage blocks.0",
    ),
    "no residual of the queries": (
        in_every(mvit.MultiscaleAttention, setting(residual_pool=False)),
        "stage blocks.0",
    ),
    "skip averaged": (
        method_changed(nn.MaxPool3d, lambda _: lambda m, x: F.avg_pool3d(x, m.kernel_size, m.stride, m.padding)),
        "stage blocks.0",
    ),
    "skip projected without the norm": (
        line_changed(mvit, "MultiscaleBlock", "self.project(x_norm1)", "self.project(x)"),
        "stage blocks.0",
    ),
    "class token averaged in": (
        lambda monkeypatch: monkeypatch.setattr(DiagnosisModel, "classify", with_class_token(DiagnosisModel.classify)),
        "logits",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_rung_red(fault: str, monkeypatch: pytest.MonkeyPatch, jax_engine: Engine) -> None:
    plant, first_red_rung = FAULTS[fault]
    plant(monkeypatch)
    assert climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=0)[:1] == [first_red_rung]
