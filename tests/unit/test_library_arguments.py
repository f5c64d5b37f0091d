"""The functions of docs/library.md with arguments that they cannot take: one sentence that says what they can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy_engine import use_numpy_engines
from tiny_store import write_store

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.evaluation.run_evaluation import evaluate_run
from anatobench.recipes import Recipe, override
from anatobench.session import configure, train_run
from anatobench.store.reader import Store
from anatobench.training.run_folder import RunConfig

Changes = dict[str, Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(AnatoBenchError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"framework": "tensorflow"}, "framework='tensorflow': choose one of torch, jax"),
        ({"framework": None}, "framework=None: choose one of torch, jax"),
        ({"framework": ["torch"]}, "framework=['torch']: choose one of torch, jax"),
        ({"model": "resnet"}, "model='resnet': choose one of r3d_18, mvit_v2_s, swin3d_t"),
        ({"model": ["r3d_18"]}, "model=['r3d_18']: choose one of r3d_18"),
        ({"store": None}, "store must be a path, not None"),
        ({"settings": "batch_size=2"}, "settings must be a list of texts such as ['batch_size=2'], not 'batch_size=2'"),
        ({"settings": {"batch_size": 2}}, "settings must be a list of texts"),
        ({"settings": 2}, "settings must be a list of texts"),
        ({"settings": [2]}, "settings must be texts such as 'batch_size=2', not 2"),
        ({"settings": [("batch_size", 2)]}, "settings must be texts"),
        ({"settings": ["precision=fp16"]}, "precision='fp16': choose one of fp64, fp32, tf32, bf16"),
        ({"settings": ["compile=maybe"]}, "compile='maybe': choose one of auto, true, false, graphs"),
        ({"settings": ["fast=maybe"]}, "write auto, true, false, or some of segmentation"),
        ({"settings": ["objective=reports"]}, "objective='reports': choose one of diagnosis, partial_masks"),
        ({"settings": ["dropout=maybe"]}, "'maybe' is not true or false"),
        ({"settings": ["batch_size=1.5"]}, "'1.5' is not a whole number"),
        ({"settings": ["batch_size=0"]}, "batch_size=0 is out of range: at least 1"),
        ({"settings": ["adam_beta1=1"]}, "adam_beta1=1.0 is out of range: from 0 to below 1"),
        ({"settings": ["supervising_organs=liver"]}, "has no organ 'liver': name all, or some of lung_upper_lobe_left"),
        ({"pretrained": True}, "pretrained must be a path, not True"),
        ({"initial_weights": 3}, "initial_weights must be a path, not 3"),
        ({"max_steps": "4"}, "max_steps must be a whole number or null, not '4'"),
        ({"checkpoint_every": 2.5}, "checkpoint_every must be a whole number, not 2.5"),
        ({"steps": 3}, "field='steps': choose one of max_steps, patience, evaluate_every, checkpoint_every"),
    ],
    ids=str,
)
def test_configure(store: Store, changes: Changes, said: str) -> None:
    arguments: Changes = {"store": store.root, "model": "r3d_18", "framework": "torch"} | changes
    refused(lambda: configure(**arguments), said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"out": None}, "out must be a path, not None"),
        ({"config": {"model": "r3d_18"}}, "config must be what `configure` returns"),
        ({"config": "runs/a/config.json"}, "config must be what `configure` returns"),
        ({"store": "ratic.store"}, "store must be a Store that is open"),
        ({"store_copy": 5}, "store_copy must be a path, not 5"),
        ({"processes": 2}, "processes must be what `find_processes` returns, not 2"),
        ({"workers": -3}, "workers=-3: give a whole number from 0 up"),
        ({"workers": "2"}, "workers='2': give a whole number from 0 up"),
        ({"say": "loudly"}, "say must be a function, not 'loudly'"),
        ({"introduce": True}, "introduce must be a function, not True"),
    ],
    ids=str,
)
def test_train_run(store: Store, tmp_path: Path, changes: Changes, said: str) -> None:
    config = configure(store.root, "r3d_18", "torch", ["batch_size=2"], max_steps=1)
    arguments: Changes = {"out": tmp_path / "run", "config": config} | changes
    refused(lambda: train_run(**arguments), said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": None}, "run must be a path, not None"),
        ({"run": "nowhere"}, "nowhere: no run here"),
        ({"split": "tset"}, "split='tset': choose one of train, validation, test"),
        ({"framework": "tensorflow"}, "framework='tensorflow': choose one of torch, jax"),
        ({"rule": "best"}, "threshold rule='best': choose one of closest_to_corner, youden"),
        ({"threshold_split": "all"}, "threshold_split='all': choose one of"),
        ({"aggregation": "median"}, "aggregation='median': choose one of none, mean, max"),
        ({"store_path": 7}, "store_path must be a path, not 7"),
    ],
    ids=str,
)
def test_evaluate_run(store: Store, tmp_path: Path, changes: Changes, said: str) -> None:
    arguments: Changes = {"run": tmp_path} | changes
    refused(lambda: evaluate_run(**arguments), said)


def test_paths_may_be_texts(store: Store, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train_run(run, configure(str(store.root), "r3d_18", "torch", ["batch_size=2"], max_steps=1))
    assert RunConfig.read(run).max_steps == 1
    assert evaluate_run(run, store_path=store.root)["step"] == 1


def test_override_takes_what_is_no_list_but_gives_texts() -> None:
    assert override(Recipe(), (text for text in ["batch_size=3"])).batch_size == 3
    with pytest.raises(UsageError, match="write field=value with one of objective, epochs"):
        override(Recipe(), ["batch_size"])
