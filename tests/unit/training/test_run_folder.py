"""A run's configuration on disk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anatobench.errors import AnatoBenchError, UsageError
from anatobench.recipes import Recipe
from anatobench.tasks import RATIC
from anatobench.training.run_folder import RunConfig, begin_run, locked

CONFIG = RunConfig(RATIC, "store", "torch", "r3d_18", "tiny", Recipe(learning_rate=1 / 3, epochs=3))


def test_a_configuration_reads_back_typed_and_whole(tmp_path: Path) -> None:
    config = replace(CONFIG, max_steps=17, evaluate_every=2)
    begin_run(tmp_path / "run", config, resume=False)
    assert RunConfig.read(tmp_path / "run") == config
    assert RunConfig.read(tmp_path / "run").spec.crop_size == (40, 44, 48)


def test_a_field_that_an_older_version_did_not_have_has_its_default(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", CONFIG, resume=False)
    path = tmp_path / "run" / "config.json"
    data = json.loads(path.read_text())
    del data["pretrained"], data["recipe"]["recompute"], data["checksum"]
    path.write_text(json.dumps(data))
    assert RunConfig.read(tmp_path / "run") == CONFIG
    del data["model"]
    path.write_text(json.dumps(data))
    with pytest.raises(AnatoBenchError, match="model"):
        RunConfig.read(tmp_path / "run")


@pytest.mark.parametrize("change", [{"learning_rate": 9.0}, {"seed": 99}])
def test_what_was_edited_is_not_taken_for_what_was_trained(change: dict[str, Any], tmp_path: Path) -> None:
    begin_run(tmp_path / "run", CONFIG, resume=False)
    path = tmp_path / "run" / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data))  # laid out anew, and still the same
    assert RunConfig.read(tmp_path / "run") == CONFIG
    path.write_text(json.dumps({**data, "recipe": {**data["recipe"], **change}}))
    with pytest.raises(AnatoBenchError, match=r"config.json: is not what the run was begun with"):
        RunConfig.read(tmp_path / "run")
    assert RunConfig.read_file(path).recipe != CONFIG.recipe, "to train something else it may be edited"


def test_total_steps_end_with_the_epochs_or_earlier() -> None:
    assert CONFIG.total_steps(7) == 21
    assert replace(CONFIG, max_steps=5).total_steps(7) == 5
    assert replace(CONFIG, max_steps=50).total_steps(7) == 21


def begun_run(run: Path, config: RunConfig = CONFIG) -> None:
    begin_run(run, config, resume=False)
    (run / "metrics.jsonl").touch()


def test_an_existing_run_needs_resume(tmp_path: Path) -> None:
    begun_run(tmp_path)
    with pytest.raises(AnatoBenchError, match="--resume"):
        begin_run(tmp_path, CONFIG, resume=False)
    assert begin_run(tmp_path, CONFIG, resume=True) == CONFIG


def test_another_configuration_is_refused_by_name_and_leaves_the_file(tmp_path: Path) -> None:
    begun_run(tmp_path)
    other = replace(CONFIG, recipe=replace(CONFIG.recipe, learning_rate=0.5))
    for resume in (True, False):
        with pytest.raises(AnatoBenchError, match=r"recipe\.learning_rate: 0\.333.* -> 0\.5"):
            begin_run(tmp_path, other, resume=resume)
    assert RunConfig.read(tmp_path) == CONFIG


def test_the_framework_changes_only_when_asked_to(tmp_path: Path) -> None:
    begun_run(tmp_path)
    other = replace(CONFIG, framework="jax")
    with pytest.raises(AnatoBenchError, match="--switch-framework"):
        begin_run(tmp_path, other, resume=True)
    assert begin_run(tmp_path, other, resume=True, switch_framework=True).framework == "jax"
    assert RunConfig.read(tmp_path).framework == "torch"  # how the run began


def test_the_packages_may_have_changed_but_their_names_stay_as_the_run_began(tmp_path: Path) -> None:
    began = replace(CONFIG, versions={"torch": "2.11", "grain": "0.2.15"})
    begun_run(tmp_path, began)
    found = begin_run(tmp_path, replace(CONFIG, versions={"torch": "2.14"}), resume=True)
    assert found.versions == {"torch": "2.11", "grain": "0.2.15"}


def test_how_the_machine_computes_may_change_and_nothing_else_with_it(tmp_path: Path) -> None:
    begin_run(tmp_path, CONFIG, resume=False)
    (tmp_path / "checkpoints").mkdir()
    eager = replace(CONFIG, recipe=replace(CONFIG.recipe, compile="false", fast="attention"))
    assert begin_run(tmp_path, eager, resume=True) == eager
    assert begin_run(tmp_path, CONFIG, resume=True) == CONFIG, "the next one is what it asks for, too"
    other = replace(eager, recipe=replace(eager.recipe, learning_rate=1.0))
    with pytest.raises(AnatoBenchError, match=r"configuration: recipe\.learning_rate: [^;]*: choose"):
        begin_run(tmp_path, other, resume=True)


def test_versions_name_the_framework_and_its_parts() -> None:
    versions = RunConfig.installed_versions("torch")
    assert {"python", "anatobench", "numpy", "grain"} <= set(versions)
    assert not {"jax", "flax"} & set(versions)


def test_the_store_may_have_moved(tmp_path: Path) -> None:
    begun_run(tmp_path)
    assert begin_run(tmp_path, replace(CONFIG, store="elsewhere"), resume=True).store == "elsewhere"


def test_resume_begins_a_run_that_is_not_there(tmp_path: Path) -> None:
    begin_run(tmp_path / "new", CONFIG, resume=True)
    assert RunConfig.read(tmp_path / "new") == CONFIG


def test_a_run_that_never_began_may_change_its_mind(tmp_path: Path) -> None:
    begin_run(tmp_path, CONFIG, resume=False)
    other = replace(CONFIG, framework="jax")
    assert begin_run(tmp_path, other, resume=False) == RunConfig.read(tmp_path) == other


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnatoBenchError, match="cannot be written"):
        begin_run(tmp_path / "file" / "run", CONFIG, resume=False)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(AnatoBenchError, match="not empty"):
        begin_run(tmp_path, CONFIG, resume=False)


@pytest.mark.parametrize(
    "damage", ["{", '{"format": 1}', "[]", '{"format": 99}', "[" * 100_000], ids=lambda damage: damage[:20]
)
def test_a_damaged_configuration_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "config.json").write_text(damage)
    with pytest.raises(AnatoBenchError, match=r"config\.json"):
        RunConfig.read(tmp_path)


def test_unknown_fields_are_an_error(tmp_path: Path) -> None:
    begin_run(tmp_path, CONFIG, resume=False)
    data = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**data, "learning_rat": 1}))
    with pytest.raises(AnatoBenchError, match="learning_rat"):
        RunConfig.read(tmp_path)


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AnatoBenchError, match="no run here"):
        RunConfig.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet"},
        {"max_steps": 0},
        {"pretrained": "r3d_18-b3b3357e.pth"},  # a tiny model has none
        {"size": "full", "pretrained": "a.pth", "initial_weights": "b.safetensors"},
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(CONFIG, **change)


def test_a_file_that_says_otherwise_than_its_recipe_is_refused() -> None:
    data = CONFIG.to_json()
    assert data["segmentation"] is True
    assert RunConfig.from_json({name: value for name, value in data.items() if name != "segmentation"}) == CONFIG
    with pytest.raises(ValueError, match=r"segmentation is False, but the recipe trains with the segmentation head"):
        RunConfig.from_json({**data, "segmentation": False})


def test_one_process_trains_a_run(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(AnatoBenchError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
