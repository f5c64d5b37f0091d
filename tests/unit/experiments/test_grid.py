"""The grid as data: what the paper trained, every run once, and each trained as its name says."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_store import write_store

from anatobench.cli.main import build_parser, main
from anatobench.cli.train import _configuration
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.grid import MACRO, TABLES, Cell, Condition, Selection
from anatobench.experiments.grid_results import collect, csv_text, gain_table, notes_of, result_table
from anatobench.experiments.grid_runs import GRID_FILE, GridSettings, planned, settings_for, what_is_missing
from anatobench.experiments.jobs import job_arrays, shell_lines
from anatobench.experiments.published import TABLE_1, published_gain
from anatobench.experiments.runs import (
    ABSENT,
    BEGUN,
    DONE,
    PlannedRun,
    chains_of,
    config_file,
    keep_settings,
    last_step,
    run_folder,
    state_of,
    write_configs,
)
from anatobench.store.mask_noise import supervising_organs
from anatobench.tasks import RATIC, TASKS
from anatobench.training.run_folder import RunConfig
from anatobench.training.sessions import SESSIONS_FILE

SWIN = Condition("ratic", "swin3d_t", pretrained=True)
EVERYTHING = Selection(seeds=1)
SMALL = Selection(tables=("1", "12"), datasets=("ratic",), models=("r3d_18",), seeds=3, from_scratch=True)


def test_the_grid_is_the_papers() -> None:
    assert {name: len(EVERYTHING.conditions(name)) for name in TABLES} == {
        "1": 3 * 3 * 2 * 2, "2": 5, "3": 6, "10": 4, "12": 4, "13": 5, "14": 3, "losses": 3,
    }  # fmt: skip
    own = 3 + 4 + 2 + 2  # weights, organ subsets, distortions and losses that Table 1 does not have
    assert len(EVERYTHING.cells) == (36 + own) * 2
    assert len(Selection(seeds=5).cells) == 5 * len(EVERYTHING.cells)
    assert [c.segmentation_weight for c in EVERYTHING.conditions("13")] == [0, 0.1, 1, 5, 10]
    assert {c.organs for c in EVERYTHING.conditions("3")} == {
        (), ("liver",), ("kidney_left", "kidney_right"), ("spleen",), ("bowel",)
    }  # fmt: skip
    assert [c.boundary_distortion for c in EVERYTHING.conditions("14")] == [0, 10, 50]
    assert [c.segmentation_loss for c in EVERYTHING.conditions("losses")] == ["ce", "dice", "ce_dice"]


def test_a_run_that_tables_share_exists_once() -> None:
    names = [cell.name for cell in Selection(seeds=2).cells]
    assert len(set(names)) == len(names)
    assert EVERYTHING.tables_of(SWIN) == ("1", "2", "3", "13", "losses")
    assert EVERYTHING.tables_of(replace(SWIN, segmentation_weight=0)) == ("1", "2", "3", "13")
    assert EVERYTHING.tables_of(replace(SWIN, segmentation_weight=10)) == ("2", "13", "14")
    assert EVERYTHING.tables_of(Condition("ct_rate", "r3d_18", False)) == ("1", "10")


def test_names_are_stable() -> None:
    """Runs lie in folders of these names: another name is a run trained again."""
    distorted = replace(SWIN, segmentation_weight=10, boundary_distortion=50)
    assert Cell(distorted, "jax", 2).name == "ratic_swin3d_t_pretrained_seg_weight10_distortion50_jax_seed2"
    kidneys = replace(SWIN, organs=("kidney_left", "kidney_right"))
    assert kidneys.name == "ratic_swin3d_t_pretrained_seg_kidney_left-kidney_right"
    assert replace(SWIN, segmentation_weight=0).name == "ratic_swin3d_t_pretrained_no_seg"
    assert replace(SWIN, pretrained=False, segmentation_loss="ce_dice").name == "ratic_swin3d_t_scratch_seg_ce_dice"


def test_the_papers_numbers_stand_at_their_conditions() -> None:
    assert TABLES["1"][SWIN][MACRO].auc == TABLE_1["ratic", "swin3d_t", True, True].auc == 0.8055
    assert TABLES["2"][replace(SWIN, segmentation_weight=0.1)][MACRO].auc == 0.7270
    assert TABLES["3"][replace(SWIN, organs=("bowel",))][MACRO].auc == 0.7960
    assert TABLES["3"][replace(SWIN, segmentation_weight=0)][MACRO].auc == 0.7088
    assert TABLES["14"][replace(SWIN, segmentation_weight=10, boundary_distortion=50)][MACRO].auc == 0.8130
    for table in ("10", "12", "13"):
        for condition, classes in TABLES[table].items():
            assert set(classes) == {*TASKS[condition.dataset].class_names, MACRO}


def test_a_selection_is_refused_by_name() -> None:
    for wrong in ({"tables": ("11",)}, {"models": ("resnet",)}, {"datasets": ()}, {"seeds": 0}):
        with pytest.raises(UsageError, match=f"--{next(iter(wrong))}"):
            Selection(**wrong)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    write_store(folder / "ratic", RATIC, {"train": 10, "test": 4})
    return folder


@pytest.mark.slow
def test_every_run_is_trained_as_its_name_says(stores: Path) -> None:
    settings = GridSettings(str(stores), True, 7, ("batch_size=2", "learning_rate=0.5"))
    cells, out = Selection(datasets=("ratic",), seeds=2, from_scratch=True).cells, stores / "out"
    runs = planned(cells, settings)
    write_configs(runs, out)
    for cell, run, chain in zip(cells, runs, chains_of(runs, out), strict=True):
        train, evaluate = chain.commands
        config = _configuration(build_parser(["train"]).parse_args(train))
        condition = cell.condition
        assert config == run.config
        assert config == _configuration(build_parser(["train"]).parse_args(words_for(cell, settings)))
        assert (config.model, config.framework, config.recipe.seed) == (condition.model, cell.framework, cell.seed)
        assert (config.max_steps, config.recipe.batch_size, config.recipe.learning_rate) == (7, 2, 0.5)
        assert config.recipe == settings.recipe(cell)
        assert config.segmentation == (condition.segmentation_weight > 0)
        assert config.recipe.segmentation_weight == condition.segmentation_weight
        assert config.recipe.segmentation_loss == condition.segmentation_loss
        assert config.recipe.boundary_distortion == condition.boundary_distortion
        assert supervising_organs(config.recipe, config.task) == (condition.organs or RATIC.organs)
        assert config.pretrained is None
        assert evaluate == ["evaluate", str(run_folder(out, cell.name))]


def words_for(cell: Cell, settings: GridSettings) -> list[str]:
    """Return what the grid said to `train` before there was --config: runs that began so go on."""
    words = ["train", "--task", cell.condition.dataset, "--out", "run", "--resume",
             "--store", str(settings.store_of(cell.condition.dataset)), "--model", cell.condition.model,
             "--framework", cell.framework, "--steps", str(settings.steps)]  # fmt: skip
    for setting in (*settings.settings, *cell.condition.settings, f"seed={cell.seed}"):
        words += ["--set", setting]
    return words


def test_a_pretrained_condition_begins_with_the_published_file(tmp_path: Path) -> None:
    write_store(tmp_path / "ratic", RATIC, {"train": 1})
    description = tmp_path / "ratic" / "store.json"
    description.write_text(description.read_text().replace('"tiny"', '"full"'))
    (run,) = planned([Cell(SWIN, "jax", 0)], GridSettings(str(tmp_path)))
    assert run.config.pretrained == "swin3d_t-7615ae03.pth"


def test_what_the_grid_sets_nobody_else_may(stores: Path) -> None:
    for setting in ("seed=3", "segmentation_weight=2", "supervising_organs=liver"):
        with pytest.raises(UsageError, match=f"{setting}: the grid itself sets"):
            GridSettings(str(stores), settings=(setting,))
    with pytest.raises(UsageError, match="write field=value"):
        GridSettings(str(stores), settings=("seeds=3",))
    with pytest.raises(UsageError, match="--steps 0"):
        GridSettings(str(stores), steps=0)


def test_all_that_is_missing_is_said_before_anything_runs(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("ANATOBENCH_PRETRAINED", raising=False)
    words = ["experiments", "grid", "run", "--out", str(tmp_path / "grid"), "--stores", str(stores)]
    assert main([*words, "--models", "r3d_18"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    said = (
        "ct_rate: ",
        "rad_chestct: ",
        "size tiny.*--from-scratch",
        "r3d_18-b3b3357e.pth: .*fetch https://",
        ": 4 of",
    )
    for line, pattern in zip(lines, said, strict=True):
        assert re.search(pattern, line), line
    assert not (tmp_path / "grid").exists()
    assert not what_is_missing(SMALL.cells, GridSettings(str(stores)))
    (wrong,) = what_is_missing(
        [Cell(Condition("ct_rate", "r3d_18", False), "jax", 0)], GridSettings(str(stores / ".."))
    )
    assert "ct_rate" in wrong


def test_a_folder_keeps_its_settings(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    first = settings_for(out, {"stores": str(stores), "steps": 5, "from_scratch": True})
    keep_settings(out / GRID_FILE, first, "this grid")
    assert settings_for(out, {}) == settings_for(out, {"steps": 5, "stores": f"{stores}/../{stores.name}"}) == first
    with pytest.raises(AnatoBenchError, match="steps: 5 -> 6"):
        settings_for(out, {"steps": 6})
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(AnatoBenchError, match="not empty and not this grid"):
        keep_settings(other / GRID_FILE, first, "this grid")
    (out / "grid.json").write_text('{"steps": 5}')
    with pytest.raises(AnatoBenchError, match=r"grid\.json: not this command's settings \(stores is missing\)"):
        settings_for(out, {})


def test_the_state_of_a_run(tmp_path: Path) -> None:
    cell = SMALL.cells[0]
    run = run_folder(tmp_path, cell.name)
    assert (state_of(tmp_path, cell.name), last_step(run)) == (ABSENT, 0)
    run.mkdir(parents=True)
    (run / "config.json").touch()
    (run / "metrics.jsonl").write_text('{"kind": "step", "step": 11}\n{"kind": "step", "st')
    assert (state_of(tmp_path, cell.name), last_step(run)) == (BEGUN, 11)
    (run / "evaluation_test.json").touch()
    assert state_of(tmp_path, cell.name) == DONE


def test_a_plan_has_a_line_per_run(stores: Path, tmp_path: Path) -> None:
    settings = GridSettings(str(stores), True, 7)
    out, runs = tmp_path / "grid", planned(SMALL.cells, settings)
    (array,) = job_arrays(runs, out, 2, ["--nodes=2"])
    lines = [line.split("\t") for line in array.plan.read_text().splitlines()]
    assert [line[:2] for line in lines] == [["ratic", str(run_folder(out, cell.name))] for cell in SMALL.cells]
    file = config_file(out, runs[3].name)
    store = ["--store", str(stores / "ratic"), "--framework", SMALL.cells[3].framework]
    assert lines[3][2:] == ["--config", str(file), *store]
    assert RunConfig.read_file(file) == runs[3].config
    (line,) = shell_lines([array])
    assert f"--array=0-{len(SMALL.cells) - 1}%2 " in line
    assert "--nodes=2" in line
    assert line.startswith("ANATOBENCH_REPOSITORY=")
    assert "dependency" not in line
    with pytest.raises(AnatoBenchError, match="tabs"):
        job_arrays(runs, tmp_path / "a\tb", None, [])


def test_runs_that_begin_with_anothers_weights_wait_for_its_array(stores: Path, tmp_path: Path) -> None:
    first, second, third = planned(SMALL.cells[:3], GridSettings(str(stores), True, 7))
    runs = [first, PlannedRun(second.name, second.config, first.name), third]
    arrays = job_arrays(runs, tmp_path / "out", None, [])
    assert [len(array.plan.read_text().splitlines()) for array in arrays] == [2, 1]
    lines = shell_lines(arrays)
    assert lines[0].startswith("job=$(ANATOBENCH_REPOSITORY=")
    assert '"--dependency=afterok:$job"' in lines[1]
    assert [len(chain.commands) for chain in chains_of(runs, tmp_path)] == [4, 2]
    (alone,) = job_arrays(runs[1:2], tmp_path / "out", None, [])
    assert "dependency" not in shell_lines([alone])[0], "what it begins with is there"


def write_evaluation(out: Path, cell: Cell, macro: float | None, size: str = "full") -> None:
    run = run_folder(out, cell.name)
    run.mkdir(parents=True)
    config = RunConfig(RATIC, "store", cell.framework, "r3d_18", size, GridSettings("s").recipe(cell),
                       versions={cell.framework: "1"})  # fmt: skip
    (run / "config.json").write_text(json.dumps(config.to_json()))
    auc = {name: macro for name in RATIC.class_names} | {MACRO: macro}
    (run / "evaluation_test.json").write_text(json.dumps({"auc": auc}))


@pytest.fixture
def collected(tmp_path: Path) -> dict[str, Any]:
    """PyTorch 0.70, 0.72, 0.74 without and 0.80, 0.84, 0.82 with segmentation; JAX one point more, seed 2 missing or
    undefined."""
    for cell in SMALL.cells:
        base = (0.80, 0.84, 0.82)[cell.seed] if cell.condition.segmentation_weight else 0.70 + 0.02 * cell.seed
        if cell.framework == "torch":
            write_evaluation(tmp_path, cell, base)
        elif cell.seed < 2:
            write_evaluation(tmp_path, cell, base + 0.01)
        elif cell.condition.segmentation_weight:
            write_evaluation(tmp_path, cell, None)
    return collect(SMALL, GridSettings("s", True), tmp_path)


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = (row for row in rows if wanted.items() <= row.items())
    return found


def test_results_stand_beside_the_papers(collected: dict[str, Any]) -> None:
    row = row_of(collected["results"], table="1", framework="torch", segmentation_weight=1.0)
    assert row["auc"] == {"0": 0.80, "1": 0.84, "2": 0.82}
    half = 4.302653 * 0.02 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.82, 0.82 - half, 0.82 + half), abs=1e-6)
    assert row["published"] == 0.7975
    found = (row["difference"], row["difference_low"], row["difference_high"])
    assert found == pytest.approx((0.0225, 0.0225 - half, 0.0225 + half), abs=1e-6)
    row = row_of(collected["results"], table="12", framework="jax", segmentation_weight=0.0, **{"class": "liver_low"})
    assert (row["count"], row["published"]) == (2, 0.694)
    assert row["mean"] == pytest.approx(0.72)


@pytest.mark.parametrize(("size", "synthetic"), [("tiny", False), ("full", True)])
def test_the_papers_numbers_stand_beside_their_like_alone(tmp_path: Path, size: str, synthetic: bool) -> None:
    for cell in SMALL.cells:
        write_evaluation(tmp_path, cell, 0.7, size)
        (run_folder(tmp_path, cell.name) / SESSIONS_FILE).write_text(json.dumps({"synthetic": synthetic}) + "\n")
    record = collect(SMALL, GridSettings("s", True), tmp_path)
    assert (record["sizes"], record["synthetic"]) == ({"ratic": size}, ["ratic"] if synthetic else [])
    assert {row["table"] for row in record["results"]} == {"1", "12"}, "the conditions and classes are the paper's"
    for row in (*record["results"], *record["gains"]):
        assert row["published"] is row["difference"] is None
    assert notes_of(record) == []


def test_no_interval_of_an_auc_leaves_the_range_of_an_auc(tmp_path: Path) -> None:
    two_seeds = replace(SMALL, seeds=2, frameworks=("torch",))
    for cell in two_seeds.cells:  # with two seeds Student's t is 12.7
        write_evaluation(tmp_path, cell, (0.4, 0.6)[cell.seed])
    record = collect(two_seeds, GridSettings("s", True), tmp_path)
    for row in record["results"]:
        assert (row["low"], row["high"]) == (0.0, 1.0)
        assert row["difference_high"] == pytest.approx(1 - row["published"])


def test_gains_and_frameworks_are_paired_by_seed(collected: dict[str, Any]) -> None:
    row = row_of(collected["gains"], framework="torch")
    assert row["mean"] == pytest.approx((0.10 + 0.12 + 0.08) / 3)
    assert row["published"] == published_gain("ratic", "r3d_18", False)
    assert row_of(collected["gains"], framework="jax")["count"] == 2
    for row in collected["framework_differences"]:
        assert (row["count"], row["mean"], row["high"] - row["low"]) == pytest.approx((2, 0.01, 0.0), abs=1e-9)


def test_what_is_missing_or_undefined_is_named(collected: dict[str, Any], tmp_path: Path) -> None:
    assert collected["missing"] == ["ratic_r3d_18_scratch_no_seg_jax_seed2"]
    assert collected["undefined"] == ["ratic_r3d_18_scratch_seg_jax_seed2"]
    assert collected["versions"] == {"torch": "1", "jax": "1"}
    assert collected["sizes"] == {"ratic": "full"}
    with pytest.raises(AnatoBenchError, match="none of the"):
        collect(replace(SMALL, models=("mvit_v2_s",)), GridSettings("s"), tmp_path)


def test_tables_and_csv_say_what_the_record_says(collected: dict[str, Any]) -> None:
    json.dumps(collected, allow_nan=False)
    (note,) = notes_of(collected)
    assert "77.0" in note
    rows = result_table(collected).rows
    assert rows[2][4:] == ("all organs", "PyTorch", "macro", "3", "82.00 [77.0, 87.0]", "79.75", "+2.25 [-2.7, +7.2]")
    assert [row[9] for row in rows if row[6] == "liver_healthy"] == ["73.40", "73.40", "77.00 [1]", "77.00 [1]"]
    assert gain_table(collected).rows[0][5:7] == ("+10.00 [+5.0, +15.0]", "+7.39")
    lines = list(csv.DictReader(io.StringIO(csv_text(collected))))
    assert len(lines) == len(rows)
    assert float(lines[2]["mean"]) == pytest.approx(0.82)


def test_notes_of_contradictions_are_shown_and_change_nothing() -> None:
    """Table 13's printed averages are shown as printed, with what contradicts them."""
    note = TABLES["13"][SWIN][MACRO].note
    assert "average" in note
    assert TABLES["13"][SWIN][MACRO].auc == 0.8055
