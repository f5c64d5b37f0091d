"""What of a published file reaches which array of a changed model, at full size in both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kinetics_files import pth_bytes, published_state, write_pth
from torch import Tensor, nn
from torchvision.models.video import MViT_V2_S_Weights, R3D_18_Weights, Swin3D_T_Weights

from anatobench.backbones import CARDS
from anatobench.backbones.mvit_v2_s import LAYOUTS
from anatobench.backbones.published_weights import PYTORCH, PublishedWeights
from anatobench.engine import Arrays, ModelSpec, load_engine
from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.tasks import get_task
from anatobench.training.initial_weights import load_pretrained
from anatobench.training.pretrained.transfer import pretrained_weights, resized_table
from anatobench.training.pretrained.weights_file import MAX_BYTES
from torch_ref.models.mvit_v2_s import MViTV2S

FRAMEWORKS = ("torch", "jax")
TORCHVISIONS = {
    "r3d_18": R3D_18_Weights.KINETICS400_V1,
    "swin3d_t": Swin3D_T_Weights.KINETICS400_V1,
    "mvit_v2_s": MViT_V2_S_Weights.KINETICS400_V1,
}
SEGMENTATION_HEAD = {"segmentation_head.weight", "segmentation_head.bias"}
DRAWN = {
    "r3d_18": {"stem.0.weight", "fc.weight", "fc.bias"} | SEGMENTATION_HEAD,
    "swin3d_t": {"patch_embed.proj.weight", "patch_embed.proj.bias", "head.weight", "head.bias"} | SEGMENTATION_HEAD,
    "mvit_v2_s": {"conv_proj.weight", "conv_proj.bias", "head.1.weight", "head.1.bias"} | SEGMENTATION_HEAD,
}
"""All that does not come from the file."""
TABLE_LENGTHS = {
    "ct_rate": {111: 191, 55: 95, 27: 47, 13: 23, 15: 11},
    "ratic": {111: 191, 55: 95, 27: 47, 13: 23, 15: 19},
}
"""Rows of MViT's tables, published to resized: 2n - 1 for the longer axis of the tokens' grid in plane, which begins
with 56x56 tokens in 8 layers and here with 96x96 in 6 or 88x96 in 10."""


Published = tuple[str, Path, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=TORCHVISIONS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Model, a file like the published one, and what it holds. r3d_18's is of the older form, as the real one."""
    state = published_state(request.param)
    content = pth_bytes(state, older_form=request.param == "r3d_18")
    path = write_pth(tmp_path_factory.mktemp("published"), request.param, content)
    yield request.param, path, state
    path.unlink()  # 130 MB


@pytest.mark.slow
def test_every_array_but_stem_and_heads_is_the_files_in_both_frameworks(published: Published) -> None:
    for task_name in TABLE_LENGTHS if published[0] == "mvit_v2_s" else ("ct_rate",):  # no other knows the crop's size
        check_every_array(published, task_name)


def check_every_array(published: Published, task_name: str) -> None:
    model, path, state = published
    task = get_task(task_name)
    spec = ModelSpec(model, "full", task, task.geometry("full").crop_size)
    loaded: dict[str, Arrays] = {}
    for framework in FRAMEWORKS:
        engine = load_engine(framework, spec, Recipe())
        drawn = engine.weights()
        load_pretrained(str(path), engine)
        loaded[framework] = engine.weights()
        assert loaded[framework].keys() == drawn.keys()
        for name in DRAWN[model]:
            np.testing.assert_array_equal(loaded[framework][name], drawn[name], err_msg=name)
    ours = loaded["torch"]
    for name in ours.keys() - DRAWN[model]:
        np.testing.assert_array_equal(loaded["jax"][name], ours[name], err_msg=name)
        if ".rel_pos_" not in name:
            np.testing.assert_array_equal(ours[name], state[name].numpy(), err_msg=name)
    tables = {name for name in ours if ".rel_pos_" in name}
    assert len(tables) == (48 if model == "mvit_v2_s" else 0)
    for name in tables:
        assert len(ours[name]) == TABLE_LENGTHS[task_name][len(state[name])], name
        expected = by_torch(state[name].double(), len(ours[name]))
        np.testing.assert_allclose(ours[name], expected, rtol=1e-7, atol=1e-7, err_msg=name)


def by_torch(table: Tensor, length: int) -> np.ndarray:
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)[0].T.numpy()


@pytest.mark.parametrize(("rows", "length"), [(111, 191), (15, 11), (15, 19), (13, 23), (1, 5), (7, 7), (19, 2)])
def test_tables_are_resized_as_torch_does(rows: int, length: int) -> None:
    table = torch.from_numpy(np.random.default_rng(rows).standard_normal((rows, 3)))
    np.testing.assert_allclose(resized_table(table.numpy(), length), by_torch(table, length), rtol=0, atol=1e-13)


def test_a_model_with_resized_tables_computes_what_torchvision_does_with_longer_ones() -> None:
    torch.manual_seed(0)
    model = MViTV2S(LAYOUTS["tiny"], (24, 48, 48), class_count=3).double().eval()
    volume = torch.randn(1, 1, 24, 48, 48, dtype=torch.float64)
    tables = [(block.attn, name) for block in model.blocks for name in ("rel_pos_h", "rel_pos_w", "rel_pos_t")]
    lengths = [len(getattr(attention, name)) for attention, name in tables]
    for attention, name in tables:
        rows, channels = getattr(attention, name).shape
        setattr(attention, name, nn.Parameter(torch.randn(rows + 8, channels, dtype=torch.float64)))
    with torch.no_grad():
        expected = model(volume)  # torchvision interpolates what does not fit
        for (attention, name), length in zip(tables, lengths, strict=True):
            resized = resized_table(getattr(attention, name).numpy(), length)
            setattr(attention, name, nn.Parameter(torch.from_numpy(resized)))
        torch.testing.assert_close(model(volume), expected, rtol=1e-10, atol=1e-12)


def test_distance_zero_stays_in_the_middle() -> None:
    table = np.arange(-55.0, 56.0)[:, None]
    for length in (191, 11):
        resized = resized_table(table, length)
        assert resized[length // 2, 0] == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(resized, -resized[::-1], atol=1e-12)


@pytest.mark.slow
def test_the_files_made_here_are_as_large_as_the_published_ones(published: Published) -> None:
    model, path, _ = published
    mebibytes = TORCHVISIONS[model].meta["_file_size"]
    assert path.stat().st_size / 2**20 == pytest.approx(mebibytes, abs=0.02)


def test_the_files_are_those_that_torchvision_names() -> None:
    assert {model: weights.url for model, weights in TORCHVISIONS.items()} == {
        model: CARDS[model].published_weights().address for model in TORCHVISIONS
    }
    assert max(weights.meta["_file_size"] for weights in TORCHVISIONS.values()) * 2**20 < MAX_BYTES / 2


SKIPPED = {"stem.0.": "another kernel", "fc.": "other classes"}
PUBLISHED = PublishedWeights(PYTORCH, "net-01234567.pth", SKIPPED, (".rel_pos_h",))
MODEL: Arrays = {
    "stem.0.weight": np.full((4, 1, 2, 2, 2), 7.0, np.float32),
    "body.weight": np.full((4, 4), 7.0, np.float32),
    "body.bias": np.full(4, 7.0, np.float32),
    "body.rel_pos_h": np.full((5, 2), 7.0, np.float32),
    "fc.weight": np.full((2, 4), 7.0, np.float32),
    "segmentation_head.weight": np.full((3, 4, 1, 1, 1), 7.0, np.float32),
}
FILE: Arrays = {
    "stem.0.weight": np.zeros((4, 3, 3, 7, 7), np.float32),
    "body.weight": np.ones((4, 4), np.float32),
    "body.bias": np.ones(4, np.float32),
    "body.num_batches_tracked": np.array(9),
    "body.relative_position_index": np.arange(9),
    "body.rel_pos_h": np.ones((3, 2), np.float32),
    "fc.weight": np.ones((400, 4), np.float32),
}


def test_what_is_drawn_stays_and_the_engines_type_is_kept() -> None:
    wide = {name: array.astype(np.float64) for name, array in MODEL.items()}
    weights = pretrained_weights(PUBLISHED, FILE, wide)
    assert {name: (float(a.flat[0]), a.shape, a.dtype) for name, a in weights.items()} == {
        name: (1.0 if name.startswith("body.") else 7.0, a.shape, np.dtype(np.float64)) for name, a in MODEL.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body.bias": None}, "body.bias is missing"),
        ({"body.extra": np.ones(3)}, "body.extra is unknown"),
        ({"segmentation_head.weight": MODEL["segmentation_head.weight"]}, "segmentation_head.weight is unknown"),
        ({"body.weight": np.ones((4, 5))}, r"body.weight has shape \(4, 5\), the model \(4, 4\)"),
        ({"body.weight": np.ones((1, 4))}, r"body.weight has shape \(1, 4\), the model \(4, 4\)"),
        ({"body.rel_pos_h": np.ones((3, 3))}, r"body.rel_pos_h has shape \(3, 3\), the model \(5, 2\)"),
        ({"body.rel_pos_h": np.ones((0, 2))}, r"body.rel_pos_h has shape \(0, 2\), the model \(5, 2\)"),
        ({"body.bias": np.ones(4, np.int64)}, "body.bias is int64"),
        ({"body.bias": np.array([1, np.nan, 1, 1])}, "body.bias holds values that are not finite"),
        ({"body.bias": None, "more": np.ones(1)}, "body.bias is missing; more is unknown"),
        ({f"n{i}": np.ones(1) for i in range(11)}, "n7 is unknown; and 3 more"),
    ],
)
def test_whatever_does_not_fit_is_listed(change: dict[str, Any], message: str) -> None:
    given = {name: array for name, array in {**FILE, **change}.items() if array is not None}
    with pytest.raises(AnatoBenchError, match=f"does not hold the arrays of net-01234567.pth: .*{message}"):
        pretrained_weights(PUBLISHED, given, MODEL)


def test_another_models_file_is_refused_by_name(tmp_path: Path) -> None:
    task = get_task("ct_rate")
    engine = load_engine("torch", ModelSpec("swin3d_t", "tiny", task, (24, 48, 48)), Recipe())
    before = engine.weights()
    path = write_pth(tmp_path, "net", pth_bytes({"stem.1.weight": torch.ones(64)}))
    with pytest.raises(AnatoBenchError, match=rf"{path.name}: does not hold the arrays of swin3d_t-7615ae03.pth: "):
        load_pretrained(str(path), engine)
    for name, array in engine.weights().items():
        np.testing.assert_array_equal(array, before[name])
