"""`anatobench evaluate` from the command line."""

import json
from pathlib import Path

import pytest
from numpy_engine import use_numpy_engines
from tiny_store import FINDINGS, write_store

from anatobench.cli.main import main
from anatobench.training.run_folder import CONFIG_FILE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained run."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        use_numpy_engines(patch)
        arguments = ["train", "--task", "findings", "--store", str(folder / "store"), "--model", "r3d_18",
                     "--framework", "torch", "--set", "batch_size=2", "--steps", "3"]  # fmt: skip
        assert main([*arguments, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def test_json_has_the_promised_keys_and_a_table_goes_to_stderr(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out.splitlines()[-1])
    classes = {"macro", *FINDINGS.class_names}
    for metric in ("auc", "sensitivity", "specificity", "f1_weighted", "precision"):
        assert set(figures[metric]) == set(figures["ci95"][metric]) == classes
    assert figures["threshold_rule"] == "closest_to_corner"
    assert figures["split"] == figures["threshold_split"] == "test"
    for name in classes:
        assert any(line.startswith(name) for line in captured.err.splitlines())
    assert captured.err.count("certain than they are: fewer than 10 patients with a positive or a negative: ") == 1
    dice = figures["organ_dice"]
    assert f"organ Dice, 0 to 1: mean {dice['macro']:.4f} (" in captured.err
    written = captured.err.partition(f"Written into {run}: ")[2].splitlines()[0].split(", ")
    assert sorted(written) == sorted(path.name for path in run.iterdir() if "_test." in path.name)


def test_options_reach_the_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--split", "validation", "--threshold-rule", "youden", "--threshold-split", "test", "--aggregate", "max"]
    assert main(["evaluate", str(run), *options, "--framework", "jax", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"split": "validation", "threshold_rule": "youden", "threshold_split": "test", "aggregation": "max"}
    assert {name: figures[name] for name in expected} == expected
    assert (figures["cases"], figures["framework"]) == (4, "jax")
    assert json.loads((run / "evaluation_validation.json").read_text()) == figures


def test_failures_are_one_line(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "no run here" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--store", str(tmp_path)]) == 1
    assert "is not a store" in capsys.readouterr().err
    (tmp_path / CONFIG_FILE).write_text((run / CONFIG_FILE).read_text())
    assert main(["evaluate", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "no checkpoint yet" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("wrong", [["--split", "train2"], ["--threshold-rule", "best"], []])
def test_wrong_arguments_exit_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *(["run"] if wrong else []), *wrong])
    assert exit_.value.code == 2
