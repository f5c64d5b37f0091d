"""A fourth backbone is a card, a file of layers per framework and a line in each registry, and nothing else: one that
stands in this file alone is trained, logged, stopped, resumed, evaluated, compared and reported by the command line.

docs/extending.md, A backbone, is written from this file."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from jax.typing import DTypeLike
from tiny_store import write_store
from torch import Tensor, nn

import jax_impl.models
import torch_ref.models
from anatobench.backbones import CARDS, card_of
from anatobench.backbones.card import BackboneCard, RecipeRow
from anatobench.backbones.products import Product, strided, voxels
from anatobench.bench.flops import count
from anatobench.cli.main import main
from anatobench.engine import ModelSpec, framework_module, load_engine
from anatobench.errors import UsageError
from anatobench.experiments.auc_study import AucStudy
from anatobench.objectives.heads import CLASSIFIER
from anatobench.objectives.registry import plan_of
from anatobench.parity.inputs import parity_batch
from anatobench.parity.suite import whole_ladder
from anatobench.recipes import FRAMEWORKS, MODELS, Recipe, paper_recipe
from anatobench.store.reader import Store
from anatobench.tasks import TASKS, Size
from anatobench.training.checkpoints import read_newest
from anatobench.training.run_folder import RunConfig
from jax_impl.layers.conv3d import Conv3d
from jax_impl.layers.linear import Linear
from jax_impl.layers.noise import Key
from jax_impl.weights import Entry, conv3d_entries

# The card: anatobench/backbones/toy.py.


@dataclass(frozen=True)
class Layout:
    """Channels after the stem and of the feature map."""

    stem: int
    channels: int


def grids(crop_size: Size) -> tuple[Size, Size]:
    """After the stem, and of the feature map."""
    stem = strided(crop_size, kernel=(4, 4, 4), stride=(4, 4, 4), padding=(0, 0, 0))
    return stem, strided(stem, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1))


def products(layout: Layout, crop_size: Size) -> Iterator[Product]:
    """Yield those of the two convolutions."""
    stem, body = grids(crop_size)
    yield Product(voxels(stem), 4**3, layout.stem, needs_input_gradient=False)
    yield Product(voxels(body), 27 * layout.stem, layout.channels)


CARD = BackboneCard(
    name="toy",
    layouts={"tiny": Layout(stem=4, channels=6)},
    products=products,
    feature_map=lambda layout, crop_size: (layout.channels, grids(crop_size)[1]),
    classifier="readout.",
    recipe_rows={"chest": RecipeRow(learning_rate=3e-3, batch_size=2)},
    has_batch_norm=False,
    has_dropout=False,
    has_kinks=False,
    compiles_long=False,
)

# The layers in PyTorch: torch_ref/models/toy.py.


class TorchToy(nn.Module):
    """[B, 1, D, H, W] to a feature map at 1/8 of the size."""

    memory_format = torch.contiguous_format

    def __init__(self, layout: Layout, class_count: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, layout.stem, kernel_size=4, stride=4, bias=False)
        self.body = nn.Conv3d(layout.stem, layout.channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.readout = nn.Linear(layout.channels, class_count)
        self.feature_channels = layout.channels

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        yield "stem", lambda x: self.stem(x).tanh()
        yield "body", lambda x: self.body(x).tanh()

    def classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.readout(pooled)
        return logits


def build_torch_toy(spec: ModelSpec, forms: frozenset[str]) -> TorchToy:
    return TorchToy(CARD.layout(spec.size), spec.task.logit_count)


# The layers in JAX: jax_impl/models/toy.py.


class JaxToy(nnx.Module):
    """[B, D, H, W, 1] to a feature map at 1/8 of the size."""

    def __init__(self, layout: Layout, class_count: int, dtype: DTypeLike, generator: np.random.Generator) -> None:
        self.stem = Conv3d(1, layout.stem, 4, stride=4, dtype=dtype, generator=generator)
        self.body = Conv3d(layout.stem, layout.channels, 3, stride=2, padding=1, dtype=dtype, generator=generator)
        self.readout = Linear(layout.channels, class_count, deviation=0.1, generator=generator)
        self.feature_channels = layout.channels

    def stages(self, train: bool, key: Key | None) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
        yield "stem", lambda x: jax.numpy.tanh(self.stem(x))
        yield "body", lambda x: jax.numpy.tanh(self.body(x))

    def classify(self, pooled: jax.Array, key: Key | None) -> jax.Array:
        return self.readout(pooled)

    def weight_table(self) -> Iterator[Entry]:
        for name, layer in (("stem", self.stem), ("body", self.body)):
            *kernel, channels, filters = layer.kernel[...].shape
            yield from conv3d_entries(name, (name,), (filters, channels, *kernel))
        yield from self.readout.weight_table("readout", ("readout",))


def build_jax_toy(spec: ModelSpec, dtype: DTypeLike, forms: Collection[str], generator: np.random.Generator) -> JaxToy:
    return JaxToy(CARD.layout(spec.size), spec.task.logit_count, dtype, generator)


# The lines in the registries. What follows would not be written for a backbone.

LINES: dict[str, tuple[dict[str, Any], Any]] = {
    "card": (CARDS, CARD),
    "torch": (torch_ref.models.BACKBONES, build_torch_toy),
    "jax": (jax_impl.models.BACKBONES, build_jax_toy),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, line in LINES.values():
        monkeypatch.setitem(registry, CARD.name, line)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), sizes={"train": 6, "validation": 4, "test": 4})


def train(store: Store, run: Path, framework: str, *more: str) -> int:
    """Return three steps of the batch size that the card has."""
    return main(["train", "--task", "findings", "--store", str(store.root), "--model", "toy", "--epochs", "1",
                 "--framework", framework, "--out", str(run), *more])  # fmt: skip


def stop_in_the_second_step(monkeypatch: pytest.MonkeyPatch, framework: str) -> None:
    """Ask this process to stop as a cluster does, while an engine takes its second step."""
    module = framework_module(framework, "engine")
    build, steps = module.build, iter(range(3))

    def interrupted_engine(*arguments: Any) -> Any:
        engine = build(*arguments)
        take_step = engine.train_step

        def train_step(*arguments: Any) -> Any:
            if next(steps) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return take_step(*arguments)

        engine.train_step = train_step
        return engine

    monkeypatch.setattr(module, "build", interrupted_engine)


def log(run: Path) -> list[Mapping[str, Any]]:
    """Return every line without its time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def arrays(run: Path) -> dict[str, bytes]:
    newest = read_newest(run)
    assert newest is not None
    return {f"{tree}/{name}": array.tobytes() for tree, found in newest.trees.items() for name, array in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_that_was_stopped_is_the_run_that_was_not(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(store, whole, framework) == 0
    with monkeypatch.context() as patch:
        stop_in_the_second_step(patch, framework)
        assert train(store, stopped, framework) == 130
    assert [line["step"] for line in log(stopped)] == [1, 2]
    assert main(["train", "--resume", "--out", str(stopped)]) == 0
    steps = [line for line in log(whole) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in steps)
    assert any(line["segmentation"] > 0 for line in steps), "a mask has supervised it"
    recipe = RunConfig.read(whole).recipe
    assert RecipeRow(recipe.learning_rate, recipe.batch_size) == CARD.recipe_rows["chest"]
    assert log(stopped) == log(whole)
    assert arrays(stopped) == arrays(whole)
    layers = ("stem", "body", "readout", "segmentation_head")
    assert {f"model/{layer}.weight" for layer in layers} <= set(arrays(whole))


@pytest.mark.slow
def test_both_frameworks_climb_the_ladder_and_stand_in_a_report(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "torch", tmp_path / "jax"
    assert train(store, ours, "torch") == 0
    assert train(store, theirs, "jax", "--initial-weights", str(ours / "initial.safetensors")) == 0
    pairs = zip(log(ours), log(theirs), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs if a["kind"] == "step")
    for run in (ours, theirs):
        assert main(["evaluate", str(run)]) == 0
    capsys.readouterr()
    assert main(["parity", "--model", "toy", "--task", "ct_rate", "--steps", "2", "--crop", "16,24,24", "--json"]) == 0
    figures = capsys.readouterr().out
    assert {"stage stem", "stage body", "gradients", "2 steps: parameters"} <= {
        rung["name"] for rung in json.loads(figures)["rungs"] if rung["tolerance"] == 1e-9 and rung["passed"]
    }
    (tmp_path / "parity.json").write_text(figures)
    page = tmp_path / "report.html"
    assert main(["report", str(ours), str(theirs), "--parity", str(tmp_path / "parity.json"), "--out", str(page)]) == 0
    assert "toy (tiny)" in page.read_text()


def test_the_count_is_that_of_the_layers() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    spec = ModelSpec("toy", "tiny", TASKS["ct_rate"], (18, 43, 53), heads=(CLASSIFIER,))
    engine = load_engine("torch", spec, Recipe(segmentation_weight=0))
    with FlopCounterMode(display=False) as counted:
        engine.predict(np.zeros((1, *spec.crop_size), np.int16))
    assert counted.get_total_flops() == count(spec).forward


def test_the_suite_goes_through_it_with_the_others() -> None:
    assert list(MODELS)[-1] == "toy"
    assert "toy" not in AucStudy().models, "its card has no learning rate for the study"
    climbs = [asked for asked in whole_ladder() if asked.model == "toy"]
    assert {asked.task for asked in climbs} == set(TASKS)
    assert {asked.size for asked in climbs} == {"tiny"}, "the card has no other"


# Without a line or an entry, one sentence says what to add; nothing is taken from another backbone.


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_its_line_in_a_framework(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], framework: str
) -> None:
    registry, _ = LINES[framework]
    monkeypatch.delitem(registry, "toy")
    assert train(store, tmp_path / "run", framework) != 0
    package = {"torch": "torch_ref", "jax": "jax_impl"}[framework]
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "model toy has no layers" in said
    assert f"add a line to `BACKBONES` in {package}/models/__init__.py" in said
    assert not (tmp_path / "run").exists()


def test_without_its_card(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(CARDS, "toy")
    with pytest.raises(SystemExit) as left:
        train(store, tmp_path / "run", "torch")
    assert left.value.code == 2
    assert "toy" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"model 'toy': choose one of {', '.join(CARDS)}$"):
        paper_recipe(TASKS["ct_rate"], "toy")


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_masks_alone_leave_its_classifier_as_it_is(framework: str) -> None:
    task = TASKS["ratic"]
    recipe = Recipe(objective="partial_masks", learning_rate=0.1, weight_decay=0.1)
    engine = load_engine(framework, ModelSpec("toy", "tiny", task, (16, 24, 24), plan_of(recipe, task).heads), recipe)
    before = engine.weights()
    engine.train_step(parity_batch(engine.spec, 2, 0, 0), 0.1, 0).fetch()
    moved = {name for name, array in engine.weights().items() if not np.array_equal(array, before[name])}
    assert moved == set(before) - {"readout.weight", "readout.bias"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_classifier_of_another_name_than_its_card_says_is_refused(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARDS, "toy", replace(CARD, classifier="fc."))
    with pytest.raises(UsageError, match=r"model toy: no parameter begins with 'fc\.': .* in `classifier` of its card"):
        load_engine(framework, ModelSpec("toy", "tiny", TASKS["ratic"], (16, 24, 24)), Recipe())


ABSENT: dict[str, Callable[[], object]] = {
    "no learning rate and batch size for the abdomen: add it to `recipe_rows`": lambda: paper_recipe(
        TASKS["ratic"], "toy"
    ),
    "no published weights: .*add it to `published`": lambda: card_of("toy").published_weights(),
    "no learning rate for the AUC study: .*add it to `tiny_learning_rate`": lambda: AucStudy(models=("toy",)),
    "no size full: choose tiny, or add it to `layouts`": lambda: load_engine(
        "torch", ModelSpec("toy", "full", TASKS["ct_rate"], (16, 24, 24)), Recipe()
    ),
}


@pytest.mark.parametrize("message", ABSENT)
def test_without_an_entry_on_its_card(message: str) -> None:
    with pytest.raises(UsageError, match=f"model toy has {message} of its card"):
        ABSENT[message]()


def test_pretrained_auto_says_that_there_are_none(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(store, tmp_path / "run", "torch", "--pretrained", "auto") != 0
    assert "model toy has no published weights: train it without --pretrained" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_auc_study_with_a_learning_rate_of_its_own_needs_none_on_the_card() -> None:
    assert AucStudy(models=("toy",), learning_rate=1e-3).models == ("toy",)


def test_recompute_is_for_cards_without_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec("toy", "tiny", TASKS["ct_rate"], (16, 24, 24))
    load_engine("torch", spec, Recipe(recompute=True))
    monkeypatch.setitem(CARDS, "toy", replace(CARD, has_batch_norm=True))
    with pytest.raises(UsageError, match="toy's BatchNorm"):
        load_engine("torch", spec, Recipe(recompute=True))
