import json
from pathlib import Path

import pytest
from exit_status import exit_status


def phantom(*arguments: object) -> int:
    return exit_status(["phantom", *map(str, arguments)])


def test_what_was_written_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cohort"
    assert phantom("--format", "ct_rate", "--out", out, "--cases", 2, "--size", "tiny", "--workers", 1, "--json") == 0
    output = capsys.readouterr()
    summary = json.loads(output.out.strip().splitlines()[-1])
    scans = list(out.glob("dataset/*_fixed/*/*/*.nii.gz"))
    assert summary["scans"] == len(scans)
    assert (summary["format"], summary["size"], summary["cases"]) == ("ct_rate", "tiny", 2)
    assert all(sum(counts.values()) == len(scans) for counts in summary["labels"].values())
    assert len(summary["labels"]) == 18
    assert f"{len(scans)} scans of 2 patients" in output.err


@pytest.mark.parametrize("wrong", [("--cases", 0), ("--seed", -1), ("--workers", 0)])
def test_wrong_numbers_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, int]
) -> None:
    arguments = {"--format": "ratic", "--out": tmp_path / "x", "--cases": 1, "--size": "tiny", wrong[0]: wrong[1]}
    assert phantom(*[word for pair in arguments.items() for word in pair]) == 2
    assert wrong[0] in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert phantom("--format", "ratic", "--out", tmp_path, "--cases", 1, "--size", "tiny") == 1
    assert "choose another --out" in capsys.readouterr().err
