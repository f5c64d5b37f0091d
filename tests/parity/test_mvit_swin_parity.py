"""The transformers climb the parity ladder in float64, and faults that a port of them makes turn it red."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import swin_transformer
from torchvision.models.video import mvit
from torchvision.models.video import swin_transformer as video_swin

import torch_ref.engine as engine_module
from anatobench.engine import Engine, ModelSpec, load_engine
from anatobench.parity.inputs import parity_recipe
from anatobench.parity.ladder import Ladder
from anatobench.tasks import Size, get_task
from torch_ref.models.diagnosis_model import DiagnosisModel

TOLERANCE = 1e-9
RECIPE = parity_recipe("float64", seed=0)
pytestmark = pytest.mark.exhaustive


def climb(reference: Engine, candidate: Engine, steps: int) -> list[str]:
    """The names of the rungs that are red."""
    ladder = Ladder(reference, candidate, steps, 3, 0, forward_tolerance=TOLERANCE, training_tolerance=TOLERANCE)
    return [rung.name for rung in ladder.climb() if not rung.passed]


@pytest.mark.parametrize("model", ["swin3d_t", "mvit_v2_s"])
@pytest.mark.parametrize(
    ("task", "crop_size", "steps"), [("ratic", None, 2), ("ct_rate", None, 2), ("rad_chestct", (20, 44, 52), 10)]
)
def test_the_engines_agree(model: str, task: str, crop_size: Size | None, steps: int) -> None:
    spec = ModelSpec(model, "tiny", get_task(task), crop_size or get_task(task).geometry("tiny").crop_size)
    assert climb(load_engine("torch", spec, RECIPE), load_engine("jax", spec, RECIPE), steps) == []


# Swin: grids 5x8x18, 5x4x9, 5x2x5 and a window of 8x5x5: it shrinks in depth alone, then in height, too; the map is
# padded in width, and its width of 9 merges with a border. MViT: 5x8x18, 5x4x9, 5x2x5.
CROP = (20, 16, 36)


@pytest.fixture(scope="module")
def jax_engines() -> dict[str, Engine]:
    """Built once: their compiled functions serve every fault."""
    specs = {model: ModelSpec(model, "tiny", get_task("ratic"), CROP) for model in FAULTS}
    return {model: load_engine("jax", spec, RECIPE) for model, spec in specs.items()}


Plant = Callable[[pytest.MonkeyPatch], None]


def in_every(kind: type[nn.Module], change: Callable[[Any], None]) -> Plant:
    """A change to every module of a kind, as soon as the model is built."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        original = engine_module._build_model

        def build(*arguments: Any) -> DiagnosisModel:
            model = original(*arguments)
            for module in model.modules():
                if isinstance(module, kind):
                    change(module)
            return model

        monkeypatch.setattr(engine_module, "_build_model", build)

    return plant


def setting(**values: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        for name, value in values.items():
            assert hasattr(module, name)
            setattr(module, name, value)

    return change


def line_changed(module: Any, name: str, right: str, wrong: str) -> Plant:
    """A function or class of torchvision's with one piece of its source replaced."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        source = inspect.getsource(getattr(module, name))
        assert right in source
        scope = dict(vars(module))
        exec(source.replace(right, wrong), scope)
        monkeypatch.setattr(module, name, scope[name])

    return plant


def method_changed(kind: type[nn.Module], change: Callable[[Any], Any]) -> Plant:
    """Another `forward`; `change` is given the right one."""
    return lambda monkeypatch: monkeypatch.setattr(kind, "forward", change(kind.forward))


def bias_of_the_smaller_window(table: Tensor, index: Tensor, window: list[int]) -> Tensor:
    """What one would expect of a window that shrinks in plane; torchvision slices the larger window's index."""
    full = WINDOW_OF_VOXELS[index.shape[0]]
    positions = torch.zeros(full, dtype=torch.bool)
    positions[: window[0], : window[1], : window[2]] = True
    kept = positions.flatten().nonzero()[:, 0]
    count = len(kept)
    return table[index[kept][:, kept].flatten()].view(count, count, -1).permute(2, 0, 1)[None]


WINDOW_OF_VOXELS = {200: (8, 5, 5)}

FAULTS: dict[str, dict[str, tuple[Plant, str]]] = {
    "swin3d_t": {
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
            lambda monkeypatch: monkeypatch.setattr(
                video_swin, "_get_relative_position_bias", bias_of_the_smaller_window
            ),
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
    },
    "mvit_v2_s": {
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
            lambda monkeypatch: monkeypatch.setattr(
                engine_module.DiagnosisModel, "classify", with_class_token(engine_module.DiagnosisModel.classify)
            ),
            "logits",
        ),
    },
}


def exchanged(right: Any) -> Any:
    return lambda attn, q, q_thw, k_thw, height, width, depth: right(attn, q, q_thw, k_thw, width, height, depth)


def with_class_token(right: Any) -> Any:
    """The mean over one token more."""
    return lambda model, features: right(model, features * (features[0, 0].numel() / (features[0, 0].numel() + 1)))


@pytest.mark.parametrize(("model", "fault"), [(model, fault) for model, faults in FAULTS.items() for fault in faults])
def test_a_planted_fault_turns_its_rung_red(
    model: str, fault: str, monkeypatch: pytest.MonkeyPatch, jax_engines: dict[str, Engine]
) -> None:
    candidate = jax_engines[model]
    plant, first_red_rung = FAULTS[model][fault]
    plant(monkeypatch)
    assert climb(load_engine("torch", candidate.spec, RECIPE), candidate, steps=0)[:1] == [first_red_rung]


@pytest.mark.parametrize("model", FAULTS)
def test_without_a_fault_the_ladder_of_the_faults_is_green(model: str, jax_engines: dict[str, Engine]) -> None:
    candidate = jax_engines[model]
    assert climb(load_engine("torch", candidate.spec, RECIPE), candidate, steps=0) == []
