"""`bench compare`: what counts as slower, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.cli.main import main


def record(path: Path, seconds: dict[str, float], noise: float = 0.01, **changes: object) -> Path:
    rng = np.random.default_rng(len(path.name))
    arms = [
        {"name": name, "precision": "bf16", "seconds": list(median * rng.normal(1, noise, 20))}
        for name, median in seconds.items()
    ]
    fixed = {"kind": "step", "model": "r3d_18", "size": "full", "geometry": "chest", "batch_size": 10}
    path.write_text(json.dumps({**fixed, "arms": arms, "machine": {"cpu": "x"}, **changes}))
    return path


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    status = main(["bench", "compare", *map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_slower_beyond_the_threshold_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old.json", {"torch": 1.0, "jax": 1.0, "gone": 1.0})
    new = record(tmp_path / "newer.json", {"torch": 1.1, "jax": 0.8, "come": 1.0})
    status, found = compared(capsys, old, new)
    assert status == 1
    assert [c["verdict"] for c in found["changes"]] == ["slower", "faster"]
    low, high = found["changes"][0]["ci95"]
    assert low < 1.1 < high
    assert found["only_in_old"] == ["r3d_18 full chest batch 10 bf16: gone"]
    assert found["only_in_new"] == ["r3d_18 full chest batch 10 bf16: come"]
    assert compared(capsys, old, new, "--threshold", "0.2")[0] == 0
    assert compared(capsys, new, old)[1]["changes"][1]["verdict"] == "slower", "the other way round jax is slower"


def test_records_of_two_frameworks_are_compared_when_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = record(tmp_path / "old.json", {"torch": 1.0, "torch without head": 0.5})
    jax = record(tmp_path / "newer.json", {"jax": 1.2, "jax without head": 0.4})
    assert main(["bench", "compare", str(torch), str(jax)]) == 1
    assert "--across-frameworks" in capsys.readouterr().err
    status, found = compared(capsys, torch, jax, "--across-frameworks")
    assert (status, found["paired"], found["across_frameworks"]) == (0, False, True)
    work = "r3d_18 full chest batch 10 bf16"
    assert [change["what"] for change in found["changes"]] == [work, f"{work} without head"]
    low, high = found["changes"][0]["ci95"]
    assert low < 1.2 < high
    both = record(tmp_path / "both.json", {"torch": 1.0, "jax": 1.2})
    assert main(["bench", "compare", str(torch), str(both), "--across-frameworks"]) == 1
    assert "holds several arms" in capsys.readouterr().err


def test_noise_is_not_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old.json", {"torch": 1.0}, noise=0.4)
    new = record(tmp_path / "newer.json", {"torch": 1.15}, noise=0.4)
    status, found = compared(capsys, old, new)
    assert (status, found["changes"][0]["verdict"]) == (0, "same")


def test_another_machine_or_environment_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old.json", {"torch": 1.0})
    kept = record(tmp_path / "kept.json", {"torch": 1.0}, machine={"cpu": "x", "environment": {"OMP_NUM_THREADS": "1"}})
    other = record(tmp_path / "other.json", {"torch": 1.0}, machine={}, host={"cpu": "y", "environment": {}})
    found = [compared(capsys, old, new)[1] for new in (old, kept, other)]
    assert [f["same_machine"] for f in found] == [True, True, False]
    assert [f["same_environment"] for f in found] == [True, False, True]


def test_a_suites_steps_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name, median in (("old.json", 1.0), ("newer.json", 2.0)):
        step = json.loads(record(tmp_path / name, {"torch": median}).read_text())
        parts = {"step": {"record": step}, "lost": {"record": None}}
        (tmp_path / name).write_text(json.dumps({"kind": "gpu_suite", "parts": parts}))
        paths.append(tmp_path / name)
    status, found = compared(capsys, *paths)
    assert status == 1
    assert found["changes"][0]["ratio"] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", "no `kind`"),
        ('{"kind": "memory"}', "no timings"),
        ('{"kind": "step"}', "damaged record"),
        ('{"kind": "step", "model": "m", "size": "s", "geometry": "g", "batch_size": 1, "arms": '
         '[{"name": "torch", "precision": "fp32", "seconds": [1.0, NaN]}]}', "positive numbers"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, complaint: str
) -> None:
    good, bad = record(tmp_path / "old.json", {"torch": 1.0}), tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    assert main(["bench", "compare", str(good), str(bad)]) == 1
    assert complaint in capsys.readouterr().err


def test_nothing_in_common_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record(tmp_path / "old.json", {"torch": 1.0})
    new = record(tmp_path / "newer.json", {"torch": 1.0}, batch_size=2)
    assert main(["bench", "compare", str(old), str(new)]) == 1
    assert "nothing in common" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        main(["bench", "compare", str(old), str(old), "--threshold", "2"])
    assert wrong.value.code == 2
