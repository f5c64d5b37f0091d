"""`anatobench train --config FILE`, whose file anybody may have written, and `--named`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy_engine import use_numpy_engines
from tiny_store import write_store

from anatobench.cli.main import build_parser, main
from anatobench.experiments.named import NAMED_RUNS
from anatobench.experiments.published import TABLE_1
from anatobench.recipes import paper_recipe
from anatobench.session import configure
from anatobench.store.reader import Store
from anatobench.tasks import RATIC, TASKS
from anatobench.training.run_folder import RunConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"), RATIC)


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


@pytest.fixture
def file(tmp_path: Path, store: Store) -> Path:
    path = tmp_path / "what.json"
    configure(store.root, "r3d_18", "torch", ["batch_size=2", "epochs=2"], evaluate_every=2).write(path)
    return path


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def train(file: Path, run: Path, *more: str) -> int:
    return main(["train", "--config", str(file), "--out", str(run), *more])


def change(file: Path, **fields: Any) -> None:
    data = json.loads(file.read_text())
    for name, value in fields.items():
        place = data["recipe"] if name in data["recipe"] else data
        place[name] = value
    file.write_text(json.dumps(data))


def test_a_run_is_trained_as_the_file_says(tmp_path: Path, file: Path) -> None:
    assert train(file, tmp_path / "run") == 0
    assert RunConfig.read(tmp_path / "run") == RunConfig.read_file(file)
    again = tmp_path / "again"
    assert train(tmp_path / "run" / "config.json", again, "--framework", "jax", "--set", "fast=false") == 0
    found = RunConfig.read(again)
    recipe = replace(RunConfig.read_file(file).recipe, fast="false")
    assert (found.framework, found.recipe) == ("jax", recipe)
    assert "jax" in found.versions, "the packages are this machine's, not the file's"


def test_it_resumes_as_the_options_would(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(file, tmp_path / "run") == 0
    assert train(file, tmp_path / "run") == 1
    assert "add --resume" in last_line(capsys)
    assert train(file, tmp_path / "run", "--resume") == 0
    assert main(["train", "--out", str(tmp_path / "run"), "--resume"]) == 0
    change(file, learning_rate=1)
    assert train(file, tmp_path / "run", "--resume") == 1
    assert "recipe.learning_rate: 0.0001 -> 1.0" in last_line(capsys)


def test_what_may_be_left_out_has_its_default(tmp_path: Path, file: Path) -> None:
    data = json.loads(file.read_text())
    whole = RunConfig.from_json(data)
    for name in ("versions", "format", "checkpoint_every", "pretrained", "max_steps"):
        del data[name]
    del data["recipe"]["adam_beta1"]
    file.write_text(json.dumps(data))
    assert replace(RunConfig.read_file(file), versions=whole.versions) == whole


@pytest.mark.parametrize(
    "option",
    [["--task", "ratic"], ["--model", "r3d_18"], ["--no-seg"], ["--epochs", "3"], ["--steps", "3"], ["--size", "tiny"],
     ["--evaluate-every", "1"], ["--checkpoint-every", "1"], ["--sharpness-every", "1"], ["--pretrained", "auto"],
     ["--initial-weights", "x"], ["--named", "ratic/r3d_18"], ["--set", "batch_size=2"]],
    ids=lambda option: option[0],
)  # fmt: skip
def test_nothing_is_said_twice(tmp_path: Path, file: Path, option: list[str], capsys: Any) -> None:
    assert train(file, tmp_path / "run", *option) == 2
    line = last_line(capsys)
    assert option[0] in line
    assert "--config says it already" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": "2"}, "recipe.batch_size must be a whole number, not '2'"),
        ({"batch_size": True}, "recipe.batch_size must be a whole number, not True"),
        ({"learning_rate": float("inf")}, "recipe.learning_rate must be a number, not inf"),
        ({"learning_rate": float("nan")}, "recipe.learning_rate must be a number, not nan"),
        ({"dropout": 1}, "recipe.dropout must be true or false, not 1"),
        ({"recipe": []}, "recipe must be an object of fields, not []"),
        ({"recipe": {"learning_rat": 1}}, "recipe.learning_rat: no such field"),
        ({"epochs": -1}, "recipe: epochs=-1 is out of range"),
        ({"evaluate_every": 0.5}, "evaluate_every must be a whole number, not 0.5"),
        ({"max_steps": "many"}, "max_steps must be a whole number or null, not 'many'"),
        ({"store": None}, "store must be text, not None"),
        ({"task": {"name": "ratic"}}, "task: "),
        ({"task": 5}, "task: "),
        ({"model": "resnet"}, "model='resnet': choose one of r3d_18, mvit_v2_s, swin3d_t"),
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"versions": 3}, "versions must be"),
        ({"extra": 3}, "extra: no such field"),
        ({"initial_weights": 7}, "initial_weights must be text or null, not 7"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, file: Path, fields: dict[str, Any], said: str, capsys: Any) -> None:
    change(file, **fields)
    assert train(file, tmp_path / "run") == 1
    line = last_line(capsys)
    assert line.startswith(f"anatobench train: {file}: not a run's configuration: ")
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"[]", b"3"], ids=lambda c: repr(c[:3]))
def test_a_file_that_is_no_configuration_is_one_line(tmp_path: Path, content: bytes, capsys: Any) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert train(path, tmp_path / "run") == 1
    assert str(path) in last_line(capsys)
    assert train(tmp_path / "nowhere.json", tmp_path / "run") == 1
    assert "nowhere.json: cannot be read" in last_line(capsys)


def test_another_task_than_the_stores_is_refused(tmp_path: Path, file: Path, capsys: Any) -> None:
    data = json.loads(file.read_text())
    data["task"]["anatomy"] = "Atlantis"
    file.write_text(json.dumps(data))
    assert train(file, tmp_path / "run") == 1
    assert "was prepared for task ratic" in last_line(capsys)


def test_every_model_of_table_1_has_a_name_with_what_the_paper_found() -> None:
    assert len([run for run in NAMED_RUNS.values() if run.condition.dataset in TASKS]) == len(TABLE_1) == 36
    run = NAMED_RUNS["ct_rate/mvit_v2_s/pretrained/no_seg"]
    assert run.expected == TABLE_1["ct_rate", "mvit_v2_s", True, False]
    assert (run.expected.auc, run.expected.source) == (0.8213, "Table 1")
    assert "--named ct_rate/mvit_v2_s/pretrained/no_seg " in run.to_json()["command"]


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "named"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("ratic/r3d_18 "))
    for words in ("100", " 5 ", "0.0001", "79.75", "Table 1"):
        assert words in line
    assert max(map(len, lines)) <= 100, "as wide as a terminal"
    assert any("anatobench train --named NAME" in line for line in lines)
    assert any(line.startswith("* ratic/swin3d_t/pretrained: Table 13") for line in lines)
    assert main(["experiments", "named", "--json"]) == 0
    (found,) = (row for row in json.loads(capsys.readouterr().out)["runs"] if row["name"] == "ct_rate/swin3d_t")
    assert (found["epochs"], found["batch_size"], found["learning_rate"]) == (20, 6, 5e-5)
    assert (found["expected"]["auc"], found["gpu_hours"]) == (0.8307, None)


def test_a_named_run_is_trained_as_the_paper_did(tmp_path: Path, store: Store) -> None:
    words = ["train", "--store", str(store.root), "--set", "batch_size=2", "--steps", "2", "--named"]
    assert main([*words, "ratic/r3d_18", "--out", str(tmp_path / "seg")]) == 0
    assert main([*words, "ratic/r3d_18/no_seg", "--out", str(tmp_path / "no_seg"), "--framework", "jax"]) == 0
    first, second = RunConfig.read(tmp_path / "seg"), RunConfig.read(tmp_path / "no_seg")
    assert first.recipe == replace(paper_recipe(RATIC, "r3d_18"), batch_size=2)
    assert (first.framework, first.segmentation, first.pretrained) == ("torch", True, None)
    assert (second.framework, second.segmentation, second.recipe.segmentation_weight) == ("jax", False, 0.0)


def test_a_wrong_name_or_one_beside_what_it_stands_for_is_refused(tmp_path: Path, store: Store, capsys: Any) -> None:
    words = ["train", "--store", str(store.root), "--out", str(tmp_path / "run"), "--named"]
    assert main([*words, "ratic/resnet"]) == 2
    assert "anatobench experiments named" in last_line(capsys)
    assert main([*words, "ratic/r3d_18", "--model", "swin3d_t", "--no-seg"]) == 2
    assert "--model, --no-seg: --named says it already" in last_line(capsys)
    assert main([*words, "ct_rate/r3d_18"]) == 1
    assert "prepared for task ratic, --named ct_rate/r3d_18 is a run on ct_rate" in last_line(capsys)


def test_the_commands_that_are_listed_can_be_called() -> None:
    for run in NAMED_RUNS.values():
        words = run.to_json()["command"].split()[1:]
        assert build_parser(["train"]).parse_args(words).named == run.name


def test_a_named_run_on_another_store_is_not_told_to_add_what_it_must_leave_out(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--named", "ct_rate/r3d_18", "--store", str(store.root), "--out", str(tmp_path / "run")]
    assert main(words) == 1
    line = last_line(capsys)
    assert "was prepared for task ratic, --named ct_rate/r3d_18 is a run on ct_rate" in line
    assert "give --task" not in line
    assert main([*words[:3], "--out", str(tmp_path / "run")]) == 2
    assert last_line(capsys) == (
        "anatobench train: --store: missing (only a run that exists goes on with --resume --out RUN alone)"
    )


def test_a_pretrained_run_on_a_tiny_store_is_told_which_name_to_take(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--named", "ratic/r3d_18/pretrained", "--store", str(store.root), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    line = last_line(capsys)
    assert line.startswith("anatobench train: there are no pretrained weights of size tiny: use a store of size full")
    assert "--named without /pretrained" in line
