"""Names, shapes and initial distributions of the full-size transformers, of both frameworks and of torchvision."""

from __future__ import annotations

import numpy as np
import pytest
from torchvision.models.video import mvit_v2_s, swin3d_t

from anatobench.engine import Arrays, ModelSpec, load_engine
from anatobench.recipes import Recipe
from anatobench.tasks import get_task

TASK = get_task("ct_rate")
MODELS = {"swin3d_t": (swin3d_t, 27_861_240), "mvit_v2_s": (mvit_v2_s, 34_280_370)}
"""torchvision's builder, and the parameters with Table 7's changes and 18 labels at the chest's size."""


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest) -> tuple[str, Arrays, Arrays]:
    """Model, torch's initial weights, JAX's, without the segmentation head."""
    spec = ModelSpec(request.param, "full", TASK, TASK.geometry("full").crop_size, heads=("classifier",))
    theirs, ours = (load_engine(framework, spec, Recipe()).weights() for framework in ("torch", "jax"))
    return request.param, theirs, ours


def test_names_and_shapes(both: tuple[str, Arrays, Arrays]) -> None:
    model, theirs, ours = both
    build, parameters = MODELS[model]
    assert {n: a.shape for n, a in ours.items()} == {n: a.shape for n, a in theirs.items()}
    assert sum(a.size for a in ours.values()) == parameters
    original = {n: tuple(t.shape) for n, t in build(num_classes=18).state_dict().items()}
    original = {n: shape for n, shape in original.items() if not n.endswith("relative_position_index")}
    assert ours.keys() == original.keys()
    changed = {n for n, shape in original.items() if shape != ours[n].shape}
    assert {n for n in changed if ".rel_pos_" not in n} == {
        "swin3d_t": {"patch_embed.proj.weight"},
        "mvit_v2_s": {"conv_proj.weight"},
    }[model]


def test_initial_weights_are_distributed_as_torchvisions(both: tuple[str, Arrays, Arrays]) -> None:
    """Mean, deviation and kurtosis of every tensor, within what two samples of its size may differ by."""
    _, theirs, ours = both
    for name, reference in theirs.items():
        array = ours[name]
        if reference.min() == reference.max():
            np.testing.assert_array_equal(array, reference, err_msg=name)
            continue
        scale, allowed = reference.std(), 6 * (2 / reference.size) ** 0.5
        assert abs(array.mean() - reference.mean()) < allowed * scale, name
        assert abs(array.std() / scale - 1) < allowed, name
        if reference.size > 5000:  # tells uniform (1.8) from normal (3)
            assert abs(kurtosis(array) - kurtosis(reference)) < 6 * (48 / reference.size) ** 0.5, name


def kurtosis(array: np.ndarray) -> float:
    centred = array.astype(np.float64) - array.mean()
    return float((centred**4).mean() / (centred**2).mean() ** 2)
