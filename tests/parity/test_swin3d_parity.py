"""Swin3D-T climbs the parity ladder in float64, and faults that a port of it makes turn it red."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import swin_transformer
from torchvision.models.video import swin_transformer as video_swin
from transformer_faults import RECIPE, Plant, climb, in_every, line_changed, setting

from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.tasks import get_task

MODEL = "swin3d_t"
# Grids 5x8x18, 5x4x9, 5x2x5 and a window of 8x5x5: it shrinks in depth alone, then in height, too; the map is padded in
# width, and its width of 9 merges with a border.
CROP = (20, 16, 36)
# Grids 9x8x14, 9x4x7, 9x2x4: padded and shifted on all axes, then the window shrinks in plane; a width of 7 merges.
DEEP_CROP = (36, 16, 28)


@pytest.fixture(scope="module")
def jax_engine() -> Engine:
    """Built once: its compiled functions serve every test."""
    return load_engine("jax", ModelSpec(MODEL, "tiny", get_task("ct_rate"), CROP), RECIPE)


@pytest.mark.slow
def test_the_engines_agree(jax_engine: Engine) -> None:
    """The other tasks climb with the other backbones."""
    assert climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=2) == []


@pytest.mark.slow
def test_the_engines_agree_on_a_map_deeper_than_the_window() -> None:
    spec = ModelSpec(MODEL, "tiny", get_task("ct_rate"), DEEP_CROP)
    assert climb(load_engine("torch", spec, RECIPE), load_engine("jax", spec, RECIPE), steps=0, backward=True) == []


def bias_of_the_smaller_window(table: Tensor, index: Tensor, window: list[int]) -> Tensor:
    """Return what one would expect of a window that shrinks in plane; torchvision slices the larger window's index."""
    full = WINDOW_OF_VOXELS[index.shape[0]]
    positions = torch.zeros(full, dtype=torch.bool)
    positions[: window[0], : window[1], : window[2]] = True
    kept = positions.flatten().nonzero()[:, 0]
    count = len(kept)
    return table[index[kept][:, kept].flatten()].view(count, count, -1).permute(2, 0, 1)[None]


WINDOW_OF_VOXELS = {200: (8, 5, 5)}


FAULTS: dict[str, tuple[Plant, str]] = {
    "LayerNorm epsilon 1e-6": (in_every(nn.LayerNorm, setting(eps=1e-6)), "stage patch_embed"),
    "tanh GELU": (in_every(nn.GELU, setting(approximate="tanh")), "stage features.0.0"),
    "no shift": (
        in_every(video_swin.ShiftedWindowAttention3d, setting(shift_size=[0, 0, 0])),
        "stage features.0.1",
    ),
    "shift of a covered axis": (
        line_changed(video_swin, "_get_window_and_shift_size", "shift_size[i] = 0", "pass"),
        "stage features.0.1",
    ),
    "no mask": (line_changed(video_swin, "_compute_attention_mask_3d", "-100.0", "0.0"), "stage features.0.1"),
    "mask of -10": (
        line_changed(video_swin, "_compute_attention_mask_3d", "-100.0", "-10.0"),
        "stage features.0.1",
    ),
    "roll the other way": (
        line_changed(
            video_swin,
            "shifted_window_attention_3d",
            "shifts=(-shift_size[0], -shift_size[1], -shift_size[2])",
            "shifts=(shift_size[0], shift_size[1], shift_size[2])",
        ),
        "stage features.0.1",
    ),
    "bias of the smaller window": (
        lambda monkeypatch: monkeypatch.setattr(video_swin, "_get_relative_position_bias", bias_of_the_smaller_window),
        "stage features.2.0",
    ),
    "padding is no key": (
        line_changed(
            video_swin,
            "shifted_window_attention_3d",
            "qkv = F.linear(x, qkv_weight, qkv_bias)",
            "qkv = F.linear(x, qkv_weight, qkv_bias) * (x != 0).any(-1, keepdim=True)",
        ),
        "stage features.0.0",
    ),
    "quarters merged in row order": (
        line_changed(swin_transformer, "_patch_merging_pad", "[x0, x1, x2, x3]", "[x0, x2, x1, x3]"),
        "stage features.1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_rung_red(fault: str, monkeypatch: pytest.MonkeyPatch, jax_engine: Engine) -> None:
    plant, first_red_rung = FAULTS[fault]
    plant(monkeypatch)
    assert climb(load_engine("torch", jax_engine.spec, RECIPE), jax_engine, steps=0)[:1] == [first_red_rung]
