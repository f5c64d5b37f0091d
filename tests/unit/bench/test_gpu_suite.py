"""The GPU suite's logic: budgets, failures that stay with their part, and the script at tiny size on a CPU."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


def load() -> ModuleType:
    loaded = importlib.util.spec_from_file_location("gpu_suite", ROOT / "benchmarks" / "gpu_suite.py")
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    sys.modules[loaded.name] = module
    loaded.loader.exec_module(module)
    return module


suite = load()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `anatobench` whose words are Python statements."""
    package = tmp_path / "anatobench"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys, os, time\nexec(sys.argv[1])\n")
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    monkeypatch.setattr(suite, "SHORTEST_PART", 0.1)


def part(name: str, *programs: str, budget: float = 20) -> object:
    return suite.Part(name, tuple((program,) for program in programs), budget)


def options(out: Path, minutes: float = 1.0) -> argparse.Namespace:
    return argparse.Namespace(geometry="chest", size="tiny", precision="bf16", out=out, minutes=minutes)


@pytest.mark.usefixtures("commands")
def test_a_part_that_fails_or_hangs_does_not_cost_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child"
    hang = f"if os.fork() == 0: open({str(child)!r}, 'w').write(str(os.getpid()))\ntime.sleep(100)"
    parts = [
        part("fails", "print('noise'); sys.exit('no such GPU')"),
        part("hangs", hang, budget=2),
        part("gate", "print('{\"passed\": false}'); sys.exit(1)"),
        part("several", "print('{\"a\": 1}')", "print('{\"b\": 2}')", "sys.exit(3)"),
        part("works", 'print(\'{"kind": "other"}\')'),
    ]
    start = time.monotonic()
    assert suite.measure(parts, options(tmp_path / "out" / "record.json")) == 0
    assert time.monotonic() - start < 60
    found = json.loads((tmp_path / "out" / "record.json").read_text())["parts"]
    assert {name: outcome["status"] for name, outcome in found.items()} == {
        "fails": "failed", "hangs": "timed out", "gate": "failed", "several": "failed", "works": "done",
    }  # fmt: skip
    assert "no such GPU" in found["fails"]["error"]
    assert found["gate"]["record"] == {"passed": False}, "a gate that is red has figures"
    assert found["several"]["record"] == [{"a": 1}, {"b": 2}, None]
    assert "fails: failed" in capsys.readouterr().out
    pid = int(child.read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "its children are gone"


@pytest.mark.usefixtures("commands")
def test_time_left_over_goes_to_the_next_and_no_part_begins_without_any(tmp_path: Path) -> None:
    late = "time.sleep(2.5); print('{}')"  # longer than its own budget alone
    parts = [part("quick", "print('{}')", budget=5), part("late", late, budget=1), part("never", "print()", budget=9)]
    found = dict(suite.run_parts(parts, seconds=2.6))
    assert found["quick"]["status"] == "done"
    assert found["late"]["status"] in ("done", "timed out")
    assert found["never"]["status"] == "skipped"
    found = dict(suite.run_parts(parts[:2], seconds=60))
    assert found["late"]["status"] == "done"


def test_nothing_done_is_a_failure_and_the_record_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suite.measure([suite.Part("x", (("no-such-command",),), 20)], options(tmp_path / "r.json")) == 1
    assert json.loads((tmp_path / "r.json").read_text())["parts"]["x"]["status"] == "failed"


def test_the_plan_fits_into_ten_minutes() -> None:
    plan = suite.all_parts(
        argparse.Namespace(
            geometry="chest", size="full", precision="bf16", peers=None, batch_size=None, memory_limit=None,
            models=["r3d_18", "mvit_v2_s", "swin3d_t"],
        )
    )  # fmt: skip
    assert sum(p.budget for p in plan) <= 9.5 * 60
    assert {p.name for p in plan} >= {"parity", "step_mvit_v2_s", "head", "memory_jax"}
    from anatobench.cli.main import build_parser

    for planned in plan:
        for words in planned.commands:
            build_parser([words[0]]).parse_args(["1" if word == "{seconds}" else word for word in words])


@pytest.mark.slow
def test_the_script_at_tiny_size(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    words = "--size tiny --models r3d_18 --batch-size 1 --precision fp32 --peers eager --minutes 5 --memory-limit 0.02"
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu_suite.sh", *words.split(), "--parts", "step_r3d_18,memory_torch",
         "--out", tmp_path / "record.json"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    step = record["parts"]["step_r3d_18"]["record"]
    assert [arm["name"] for arm in step["arms"]] == ["torch", "jax", "torchvision:eager"]
    assert step["same_first_loss"] is True
    assert record["parts"]["memory_torch"]["status"] == "failed", "20 MiB are not enough for a step"
    assert "not even one case fits" in record["parts"]["memory_torch"]["error"]
    assert "torchvision:eager / torch" in done.stdout
