"""A study is declared before it runs, and what is changed afterwards is shown as a change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exit_status import exit_status

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.experiments.auc_plan import (
    changes_of,
    declare,
    digest_of,
    hypotheses_of,
    plan_in,
    plan_to_keep,
    read_plan,
    seeds_for,
)
from anatobench.experiments.auc_study import AucStudy, begin, name_of
from anatobench.experiments.runs import run_folder
from anatobench.experiments.statistics import equivalence_power
from anatobench.system.json_text import json_bytes
from anatobench.training.run_folder import CONFIG_FILE, evaluation_file

STUDY = AucStudy(models=("r3d_18",), seeds=2, cases=40, steps=24)


def pilot(tmp_path: Path) -> Path:
    """Return a record in which the pairs part by 1 and 3 points with supervision, and always by 2 without."""
    values = {("torch", True): (0.60, 0.62, 0.64), ("jax", True): (0.61, 0.65, 0.65),
              ("torch", False): (0.50, 0.55, 0.52), ("jax", False): (0.52, 0.57, 0.54)}  # fmt: skip
    cells = [
        {"model": "r3d_18", "framework": framework, "segmentation": segmentation, "seed": seed, "nudged": nudged,
         "auc": {"macro": auc + 0.3 * nudged}}
        for (framework, segmentation), found in values.items()
        for seed, auc in enumerate(found)
        for nudged in (False, True)
    ]  # fmt: skip
    path = tmp_path / "pilot.json"
    path.write_text(json.dumps({"kind": "auc_study", "cells": cells}))
    return path


def kept(study: AucStudy, out: Path, reason: str | None = None, pilot_record: Path | None = None) -> None:
    """Do what the command does with a plan."""
    content = json_bytes(declare(study, pilot_record, 0.8, day="2026-11-27"))
    file = plan_to_keep(study, content, out, reason)
    begin(study, out, ("seeds", "models", "control_seeds", "margin"))
    if file is not None:
        file[0].write_bytes(file[1])


def test_the_power_is_that_of_the_pilots_deviation_at_holms_strictest_step(tmp_path: Path) -> None:
    plan = declare(replace(STUDY, seeds=9), pilot(tmp_path), 0.8)
    with_head, without, gain, chance = plan["hypotheses"]
    assert with_head["deviation"] == pytest.approx(0.01154700538)  # of 1, 3 and 1 points
    assert with_head["power"] == pytest.approx(equivalence_power(with_head["deviation"], 0.02, 9, alpha=0.05 / 4))
    assert without["deviation"] == pytest.approx(0, abs=1e-12)
    assert gain["deviation"] == pytest.approx(0.02)  # of 9.5, 7.5 and 11.5, means of both frameworks
    assert chance["pilot_seeds"] == 3
    assert plan["pilot"] == {"file": "pilot.json", "digest": digest_of((tmp_path / "pilot.json").read_bytes())}
    assert seeds_for(STUDY, tmp_path / "pilot.json", 0.8) == max(row["seeds_needed"] for row in plan["hypotheses"])


def test_a_pilot_of_another_backbone_says_nothing(tmp_path: Path) -> None:
    other = replace(STUDY, models=("swin3d_t",))
    assert all(row["power"] is None for row in declare(other, pilot(tmp_path), 0.8)["hypotheses"])
    with pytest.raises(UsageError, match="give a number"):
        seeds_for(other, tmp_path / "pilot.json", 0.8)


def test_every_backbone_has_its_family() -> None:
    family = hypotheses_of(replace(STUDY, models=("r3d_18", "swin3d_t")))
    assert [(one.kind, one.segmentation) for one in family[:4]] == [
        ("equivalent", True), ("equivalent", False), ("gain", None), ("above_chance", False)]  # fmt: skip
    assert [one.model for one in family[4:]] == ["swin3d_t"] * 4


def test_the_record_names_the_plans_digest_and_no_change(tmp_path: Path) -> None:
    kept(STUDY, tmp_path / "out")
    kept(STUDY, tmp_path / "out")
    found = plan_in(tmp_path / "out")
    assert found is not None
    assert found["digest"] == digest_of((tmp_path / "out" / "plan.json").read_bytes())
    assert found["plan"]["study"]["seeds"] == 2
    assert found["changes"] == []
    assert plan_in(tmp_path) is None


def test_a_change_needs_a_reason_and_stays_visible(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept(STUDY, out)
    more = replace(STUDY, seeds=3)
    with pytest.raises(AnatoBenchError, match=r"seeds: 2 -> 3.*--amend"):
        kept(more, out)
    (run := run_folder(out, name_of(STUDY.cells[0]))).mkdir(parents=True)
    (run / evaluation_file("test")).write_text("{}")
    kept(more, out, reason="another night")
    kept(replace(more, margin=0.03), out, reason="asked by a reviewer")
    kept(replace(more, margin=0.03), out)  # goes on
    changes = changes_of(out)
    assert [(one["changed"], one["reason"], one["runs_done"]) for one in changes] == [
        ({"seeds": [2, 3]}, "another night", 1), ({"margin": [0.02, 0.03]}, "asked by a reviewer", 1)]  # fmt: skip
    found = plan_in(out)
    assert found is not None
    assert found["plan"]["study"]["seeds"] == 2, "the record shows what was declared first"
    assert "plan" not in found["changes"][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("day", None), ("reason", 5), ("changed", []), ("changed", {"seeds": [2]}), ("changed", {"seeds": 3}),
     ("runs_done", "none"), ("plan", "{}"), ("plan", "[]"), ("by", "me")],
)  # fmt: skip
def test_a_damaged_change_is_named(name: str, value: object, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept(STUDY, out)
    kept(replace(STUDY, seeds=3), out, reason="another night")
    (change,) = changes_of(out)
    (out / "plan_changes.json").write_text(json.dumps([{**change, name: value}]))
    for read in (changes_of, plan_in):
        with pytest.raises(AnatoBenchError, match=r"plan_changes\.json: not the changes of a plan \(.*put the study's"):
            read(out)


@pytest.mark.parametrize("content", ["{}", "null", "[5]", "[[]]", '[{"day": "2026-11-27"}]', "{", '"changes"'])
def test_what_are_no_changes_is_named(content: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept(STUDY, out)
    (out / "plan_changes.json").write_text(content)
    with pytest.raises(AnatoBenchError, match=r"plan_changes\.json: "):
        kept(replace(STUDY, seeds=3), out, reason="another night")
    assert (out / "plan_changes.json").read_text() == content


def test_another_recipe_is_another_study(tmp_path: Path) -> None:
    kept(STUDY, tmp_path / "out")
    with pytest.raises(AnatoBenchError, match=r"steps: 24 -> 48.*another --out"):
        kept(replace(STUDY, steps=48), tmp_path / "out", reason="longer is better")


def test_what_ran_before_cannot_be_declared(tmp_path: Path) -> None:
    begin(STUDY, tmp_path / "out")
    (run := run_folder(tmp_path / "out", name_of(STUDY.cells[0]))).mkdir(parents=True)
    (run / CONFIG_FILE).write_text("{}")
    with pytest.raises(AnatoBenchError, match="not declared before they ran"):
        kept(STUDY, tmp_path / "out")


DECLARE = ["experiments", "declare", "--models", "r3d_18", "--cases", "40", "--steps", "24"]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    assert main([*DECLARE, "--out", str(file), "--seeds", "2", "--pilot", str(pilot(tmp_path))]) == 0
    said = capsys.readouterr()
    assert "seeds for a power of 0.8; 2 have" in said.out
    assert digest_of(file.read_bytes()) in said.err
    assert read_plan(file)[0] == STUDY
    assert main([*DECLARE, "--out", str(file), "--seeds", "2"]) == 1
    assert "never written over" in capsys.readouterr().err
    out = tmp_path / "out"
    assert exit_status(["experiments", "auc", "--plan", str(file), "--out", str(out), "--steps", "9"]) == 2
    assert exit_status(["experiments", "auc", "--amend", "why", "--out", str(out)]) == 2
    assert not out.exists()
    kept(STUDY, out)
    assert main(["experiments", "auc", "--out", str(out), *DECLARE[2:], "--seeds", "2"]) == 1
    assert "go on with its --plan" in capsys.readouterr().err


def test_the_pilot_says_how_many_seeds(tmp_path: Path) -> None:
    assert main([*DECLARE, "--out", str(tmp_path / "plan.json"), "--pilot", str(pilot(tmp_path))]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["study"]["seeds"] == max(row["seeds_needed"] for row in plan["hypotheses"])
    assert all(row["power"] >= 0.8 for row in plan["hypotheses"])


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'{"kind": "auc_plan"}', b'{"kind": "auc_plan", "format": 1, "study": {"seeds": "2"}}',
     b'{"kind": "auc_plan", "format": 1, "study": {"seeds": 0}}', b'{"kind": "auc_plan", "format": 1, "study": []}',
     b'{"kind": "auc_plan", "format": 1, "study": {"learning_rates": ["fast"]}}', b"\xff"],
)  # fmt: skip
def test_what_is_no_plan_is_named(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    assert main(["experiments", "auc", "--plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "plan.json" in line
    assert not (tmp_path / "out").exists()


WRONG: list[list[Any]] = [
    ["--learning-rates", "1e-3"],  # and nobody to choose by
    ["--learning-rates", "1e-3", "--learning-rate", "1e-3", "--validation-fraction", "0.2"],
    ["--learning-rates", "fast", "--validation-fraction", "0.2"],
    ["--learning-rates", "1e-3,0.00100000001", "--validation-fraction", "0.2"],  # one folder for both
    ["--validation-fraction", "0.6"],
    ["--choice-seeds", "0"],
    ["--power", "1"],
    ["--size", "huge"],
    [],  # neither seeds nor a pilot
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_words_exit_with_2(words: list[str], tmp_path: Path) -> None:
    seeds = ["--seeds", "2"] if words else []
    assert exit_status([*DECLARE, *seeds, "--out", str(tmp_path / "plan.json"), *words]) == 2
    assert not (tmp_path / "plan.json").exists()
