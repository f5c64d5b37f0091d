"""The library, the command line's options and `--config` train one and the same run, in both frameworks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_store import SMALL, write_store

from anatobench.cli.main import main
from anatobench.session import configure, train_run
from anatobench.store.reader import Store
from anatobench.tasks import RATIC
from anatobench.training.checkpoints import read_newest

pytestmark = pytest.mark.usefixtures("shallow_models")

DOCUMENT = Path(__file__).parents[3] / "docs" / "library.md"
STEPS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    sizes = {"train": 6, "validation": 4, "test": 4}
    return write_store(tmp_path_factory.mktemp("stores") / "ratic.store", replace(RATIC, own_geometry=SMALL), sizes)


def state(run: Path) -> dict[str, bytes]:
    """Weights and moments of its newest checkpoint."""
    checkpoint = read_newest(run)
    assert checkpoint is not None
    assert checkpoint.progress.step == STEPS
    return {f"{tree}/{name}": a.tobytes() for tree, found in checkpoint.trees.items() for name, a in found.items()}


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_three_ways_to_ask_for_a_run_give_equal_weights(tmp_path: Path, store: Store, framework: str) -> None:
    settings = ["batch_size=2", "learning_rate=1e-3", "seed=4"]
    library, options, file = (tmp_path / name for name in ("library", "options", "file"))
    config = configure(store.root, "r3d_18", framework, settings, max_steps=STEPS)
    train_run(library, config)
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", "--task", "ratic", "--store", str(store.root), "--model", "r3d_18", "--framework", framework,
                 "--steps", str(STEPS), "--out", str(options), *words]) == 0  # fmt: skip
    assert main(["train", "--config", str(library / "config.json"), "--out", str(file)]) == 0
    assert state(library) == state(options) == state(file)
    assert losses(library) == losses(options) == losses(file)
    if framework == "torch":  # in moments
        other = tmp_path / "other"
        train_run(other, configure(store.root, "r3d_18", framework, [*settings[:2], "seed=5"], max_steps=STEPS))
        assert state(other) != state(library), "or the comparison sees nothing"


def test_the_documents_examples_run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(store.root.parent)
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(examples) == 3
    printed = []
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), {})
        printed.append(capsys.readouterr())
    assert printed[0].out.startswith("4 Best(step=")
    assert printed[0].err == ""
    assert printed[1].out.startswith("6 4 ")
    assert "step 4/4" in printed[1].err
    assert printed[2].out.startswith("4 0.")
