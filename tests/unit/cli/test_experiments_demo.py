"""`anatobench experiments demo` is made of commands that exist, and refuses what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from exit_status import exit_status

from anatobench.cli.experiments_demo import commands
from anatobench.cli.main import build_parser


def test_every_step_is_a_command_that_a_person_could_call(tmp_path: Path) -> None:
    steps = [build_parser([words[0]]).parse_args(words) for words in commands(tmp_path, 80, 120, 2)]
    assert [step.command for step in steps] == ["phantom", "prepare", "experiments", "experiments"]
    phantom, prepare, train, collect = steps
    assert (prepare.raw, prepare.store) == (phantom.out, tmp_path / "stores" / "ratic")
    assert (train.action, collect.action) == ("run", "collect")
    assert Path(train.stores) / "ratic" == prepare.store
    assert (train.out, train.tables, train.models, train.seeds) == (collect.out, "1,12", "r3d_18", 2)
    assert train.from_scratch, "there are no pretrained weights of size tiny"


def test_lacking_masks_are_made_before_the_cohort_is_prepared(tmp_path: Path) -> None:
    steps = [build_parser([words[0]]).parse_args(words) for words in commands(tmp_path, 80, 120, 2, unmasked=8)]
    assert [step.command for step in steps] == ["phantom", "masks", "prepare", "experiments", "experiments"]
    phantom, masks, prepare, *_ = steps
    assert (phantom.unmasked, masks.raw, masks.dataset, masks.check) == (8, phantom.out, "ratic", True)
    assert masks.out == prepare.masks


@pytest.mark.parametrize("arguments", [["--unmasked", "81"], ["--cases", "39"], ["--steps", "0"], ["--seeds", "0"]])
def test_wrong_arguments_exit_with_2(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["experiments", "demo", "--out", str(tmp_path / "demo"), *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
