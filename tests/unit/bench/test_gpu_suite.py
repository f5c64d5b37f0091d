"""The GPU suite's logic with commands that are Python statements, and the script at tiny size on a CPU."""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from record_schema import assert_valid

from anatobench.bench import suite as suite_module
from anatobench.bench.arm_cache import ArmCache
from anatobench.bench.arms import Arm
from anatobench.bench.commands import Job, run_jobs
from anatobench.bench.suite import Measurement, Plan

PAPERS = ["r3d_18", "mvit_v2_s", "swin3d_t"]
ROOT = Path(__file__).parents[3]
TORCH, JAX = Arm("torch"), Arm("jax")
THIRD, FOURTH = (Arm(None, Path("peer.py"), variant) for variant in ("third", "fourth"))
NOTE = "open('log', 'a').write(f'{NAME} begins {time.monotonic()}\\n')\n"
END = "open('log', 'a').write(f'{NAME} ends {time.monotonic()}\\n')\n"
COMPILED = "print(json.dumps({'arms': [{'compile_s': 40.0, 'compile_cache': 'empty'}]}))"
# What `bench step` answers of the arms that it was told to measure.
STEP = """
names = WORDS[WORDS.index('--framework') + 1].split(',')
print(json.dumps({'arms': [{'name': n, 'compile_s': 2.0, 'compile_cache': 'filled'} for n in names]}))
"""


def load() -> ModuleType:
    loaded = importlib.util.spec_from_file_location("gpu_suite", ROOT / "benchmarks" / "gpu_suite.py")
    assert loaded is not None
    assert loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    sys.modules[loaded.name] = module
    loaded.loader.exec_module(module)
    return module


suite = load()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With an `anatobench` whose first word is its name, its second a program."""
    package = tmp_path / "anatobench"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, os, sys, time\nNAME, PROGRAM, *WORDS = sys.argv[1:]\nexec(PROGRAM)\n"
    )
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    monkeypatch.setattr(suite_module, "SHORTEST_PART", 0.1)
    monkeypatch.setattr(suite, "busy_before", lambda machine: [])
    monkeypatch.setattr(suite, "gpu_use", lambda: None)
    monkeypatch.setattr(suite, "visible_gpus", lambda: ["0"])
    return tmp_path


def job(name: str, program: str = COMPILED) -> Job:
    return Job(name, (name, NOTE + program + "\n" + END))


def part(
    name: str = "step", program: str = STEP, arms: tuple[Arm, ...] = (TORCH, JAX), reserve: float = 20
) -> Measurement:
    return Measurement(name, "m", (name, NOTE + program + "\n" + END), arms, reserve)


def run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, *words: str, jobs: int = 2, minutes: float = 1.0
) -> tuple[int, dict[str, Any]]:
    """`gpu_suite.sh` with that plan."""
    monkeypatch.setattr(suite, "whole_plan", lambda options, cache: plan)
    status = suite.main(["--out", "out/record.json", "--jobs", str(jobs), "--minutes", str(minutes), *words])
    path = Path("out/record.json")
    return status, json.loads(path.read_text()) if path.exists() else {}


def log() -> dict[str, tuple[float, float]]:
    """Return when each command that ended began and ended; the last time, if it ran several times."""
    found: dict[str, dict[str, float]] = {}
    for line in Path("log").read_text().splitlines():
        name, what, moment = line.rsplit(" ", 2)
        found.setdefault(name, {})[what] = float(moment)
    return {name: (times["begins"], times["ends"]) for name, times in found.items() if "ends" in times}


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {name: found["status"] for name, found in record["parts"].items()}


def test_everything_is_compiled_a_few_at_a_time_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = "time.sleep(0.5)\n" + COMPILED
    plan = Plan(
        (job("compile m torch", slow), job("compile m jax", slow), job("compile m peer:third", slow)),
        (part(arms=(TORCH, JAX, THIRD)),),
    )
    status, record = run(plan, monkeypatch)
    assert status == 0
    assert_valid(record, "gpu_suite")
    times = log()
    begins, ends = zip(*(times[j.name] for j in plan.first[:2]), strict=True)
    assert max(begins) < min(ends), "two at a time"
    assert times["compile m peer:third"][0] > min(ends), "not three"
    assert times["step"][0] > max(times[j.name][1] for j in plan.first)
    assert record["compile"]["arms"]["m torch"]["compile_s"] == 40.0
    assert record["compile"]["arms"]["m torch"]["from_cache_s"] == 2.0
    assert record["compile"]["arms"]["m peer:third"]["from_cache_s"] is None
    assert [arm["name"] for arm in record["parts"]["step"]["record"]["arms"]] == ["torch", "jax"]
    assert not Path("out/record.cache").exists(), "nothing needs it any more"


@pytest.mark.slow
def test_a_compilation_that_hangs_costs_its_arm_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hang = "if os.fork() == 0: open('child', 'w').write(str(os.getpid()))\ntime.sleep(100)"
    first = (
        job("compile m torch", hang),
        job("compile m peer:third", hang),
        job("compile m jax"),
        job("compile m peer:fourth", "sys.exit('no such GPU')"),
    )
    start = time.monotonic()
    plan = Plan(first, (part(arms=(TORCH, JAX, THIRD, FOURTH), reserve=2), part("both", arms=(TORCH,), reserve=2)))
    status, record = run(plan, monkeypatch, jobs=1, minutes=9 / 60)
    assert status == 1
    assert time.monotonic() - start < 60
    arms = record["compile"]["arms"]
    assert {name: arm["status"] for name, arm in arms.items()} == {
        "m torch": "timed out", "m peer:third": "timed out", "m jax": "done", "m peer:fourth": "failed",
    }  # fmt: skip
    assert "no such GPU" in arms["m peer:fourth"]["error"]
    step = record["parts"]["step"]
    assert step["status"] == "incomplete"
    assert [arm["name"] for arm in step["record"]["arms"]] == ["jax"]
    assert re.search(r"torch: not compiled: stopped after \d+ s", step["error"])
    assert record["parts"]["both"]["status"] == "failed", "there is nobody left"
    assert "torch: not compiled" in capsys.readouterr().out
    state = Path(f"/proc/{int((folder / 'child').read_text())}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "its children are gone"


def test_what_lacked_memory_beside_others_is_tried_again_alone() -> None:
    lacking = (
        "if not os.path.exists(NAME): open(NAME, 'w'); time.sleep(0.5); sys.exit('RESOURCE_EXHAUSTED')\nprint('{}')"
    )
    never = "time.sleep(0.5); sys.exit('torch.OutOfMemoryError: nothing left')"
    found = run_jobs([job("a", lacking), job("b", "time.sleep(1.5)"), job("c", never)], places=3, seconds=30)
    assert found["a"].error is None
    assert found["c"].out_of_memory
    assert "nothing left" in (found["c"].error or "")
    assert log()["a"][0] > log()["b"][1]


def test_a_measurement_that_fails_or_hangs_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    failed_arm = (
        "print(json.dumps({'failed': {'jax': {'error': 'gone', 'out_of_memory': False}}, 'arms': []})); sys.exit(1)"
    )
    red = "print(json.dumps({'model': 'm', 'dtype': 'float32', 'passed': False})); sys.exit(1)"
    plan = Plan(
        (job("parity m float32", red),),
        (
            part("fails", "print('noise'); sys.exit('no such GPU')"),
            part("hangs", "time.sleep(100)", reserve=3),
            part("arm", failed_arm),
            part("memory", "print(json.dumps({'complete': False}))"),
            part("works"),
        ),
    )  # fmt: skip
    status, record = run(plan, monkeypatch, minutes=0.8)
    assert status == 1
    assert statuses(record) == {
        "parity": "failed", "fails": "failed", "hangs": "timed out", "arm": "incomplete", "memory": "incomplete",
        "works": "done",
    }  # fmt: skip
    assert record["parts"]["parity"]["record"][0]["passed"] is False, "a gate that is red has figures"
    assert "the frameworks differ" in record["parts"]["parity"]["error"]
    assert "no such GPU" in record["parts"]["fails"]["error"]
    assert record["parts"]["arm"]["error"] == "arm: jax: gone"
    assert record["parts"]["memory"]["error"] == "memory: the time was up before the search was done"


def test_time_left_over_goes_to_the_parts_and_none_begins_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    time_for = suite_module._time_for
    parts = [part("a", reserve=10), part("b", reserve=20), part("c", reserve=0)]
    assert time_for(parts, 60.0) == 20
    assert time_for(parts, 15.0) == 5, "less than reserved: in proportion"
    assert time_for(parts[2:], 7.0) == 7
    assert time_for(parts[2:], 0.0) == 0
    _, record = run(Plan((), (part("a", "time.sleep(2)"), part("b", reserve=0))), monkeypatch, minutes=1 / 60)
    assert statuses(record) == {"a": "timed out", "b": "skipped"}
    assert "no time was left" in record["parts"]["b"]["error"]


def programs_that_work_later() -> Plan:
    """Return everything of this works but what needs the file `ready`."""
    late = "if not os.path.exists('ready'): sys.exit('not yet')\n"
    parity = "print(json.dumps({'model': 'm', 'dtype': NAME.split()[2], 'passed': True}))"
    first = (
        job("compile m torch"), job("compile m jax", late + COMPILED),
        job("parity m float32", parity), job("parity m bfloat16", late + parity),
    )  # fmt: skip
    return Plan(
        first, (part(), part("torch alone", arms=(TORCH,)), part("memory", late + "print('{\"kind\": 1}')", (TORCH,)))
    )


def keep_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every arm had left something in its cache."""
    monkeypatch.setattr(suite, "arm_cache", lambda root, arm: ArmCache({}, "filled"))


def test_continue_adds_what_is_missing_and_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_caches(monkeypatch)
    status, before = run(programs_that_work_later(), monkeypatch)
    assert status == 1
    assert statuses(before) == {"parity": "incomplete", "step": "incomplete", "torch alone": "done", "memory": "failed"}
    Path("log").unlink()
    Path("ready").touch()
    status, after = run(programs_that_work_later(), monkeypatch, "--continue")
    assert status == 0
    assert set(statuses(after).values()) == {"done"}
    assert set(log()) == {"compile m jax", "parity m bfloat16", "step", "memory"}, "nothing was done twice"
    assert after["parts"]["torch alone"] == before["parts"]["torch alone"]
    assert [found["dtype"] for found in after["parts"]["parity"]["record"]] == ["float32", "bfloat16"]
    assert len(after["parts"]["step"]["record"]["arms"]) == 2
    assert after["started"] == before["started"]
    assert after["seconds"] > before["seconds"]
    assert_valid(after, "gpu_suite")


def test_continue_compiles_again_where_the_cache_is_gone_and_keeps_the_better_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(programs_that_work_later(), monkeypatch)
    Path("log").unlink()
    monkeypatch.setattr(suite_module, "SHORTEST_PART", 1000)
    _, record = run(programs_that_work_later(), monkeypatch, "--continue")
    assert "compile m torch" in log()
    assert record["parts"]["step"]["status"] == "incomplete", "that of one arm is worth more than that of none"


@pytest.mark.parametrize(
    ("change", "words", "complaint"),
    [
        ({"code": {"version": "0", "commit": "f00", "dirty": False, "source": "0"}}, ["--continue"], "another code"),
        ({"precision": "fp32"}, ["--continue"], "another precision"),
        ({"options": {"models": ["swin3d_t"]}}, ["--continue"], "another options"),
        ({"machine": {"cpu": "a lamp", "gpu": None}}, ["--continue"], "another machine"),
        ({"parts": 3}, ["--continue"], "no record that --continue could add to"),
        ({}, [], "--continue adds what is missing in it, --fresh begins anew"),
    ],
)  # fmt: skip
def test_a_record_of_something_else_is_refused_in_one_line(
    change: dict[str, Any],
    words: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = Plan((), (part(),))
    _, record = run(plan, monkeypatch)
    content = json.dumps(record | change)
    Path("out/record.json").write_text(content)
    capsys.readouterr()
    assert run(plan, monkeypatch, *words)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert Path("out/record.json").read_text() == content
    assert run(plan, monkeypatch, "--fresh")[0] == 0


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to everything within a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


@pytest.mark.slow
def test_a_record_damaged_anywhere_is_refused_or_continued_and_never_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is missing must be known before minutes are spent on measuring, not when the table is printed."""
    step = json.loads((ROOT / "benchmarks" / "results" / "step_r3d_18_tiny_cpu.json").read_text())
    step["arms"], step["ratios"] = step["arms"][:1], step["ratios"][:1]
    step["arms"][0] = {name: value for name, value in step["arms"][0].items() if not isinstance(value, dict)}
    plan = Plan((), (part("step_r3d_18", arms=(TORCH,)),))
    run(plan, monkeypatch)
    path = Path("out/record.json")
    whole = json.loads(path.read_text())
    whole["parts"]["step_r3d_18"]["record"] = step
    whole["compile"]["arms"]["m torch"] = {
        "status": "done", "seconds": 1.0, "compile_s": 2.0, "compile_cache": "empty", "from_cache_s": None,
        "error": None,
    }  # fmt: skip
    path.write_text(json.dumps(whole))
    assert run(plan, monkeypatch, "--continue")[0] == 0
    machine, code = suite.describe_host(), whole["code"]
    monkeypatch.setattr(suite, "describe_host", lambda: machine)  # thousands of times, of programs that they start
    monkeypatch.setattr(suite, "describe_source", lambda folders: code)
    refused = 0
    for *holder, last in list(places_in(whole)):
        for wrong in (None, 3, [None], "removed"):
            damaged = json.loads(json.dumps(whole))
            within = damaged
            for key in holder:
                within = within[key]
            if wrong == "removed":
                del within[last]
            else:
                within[last] = wrong
            path.write_text(json.dumps(damaged))
            capsys.readouterr()
            status, _ = run(plan, monkeypatch, "--continue")
            if status == 2:
                refused += 1
                assert capsys.readouterr().err.splitlines()[-1].startswith("gpu_suite.sh: "), (*holder, last)
    assert refused > 20


def test_fresh_empties_the_suites_own_cache_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan((), (part("step", "sys.exit(1)"),))
    run(plan, monkeypatch)
    (Path("out/record.cache") / "program").touch()
    other = Path("out/other.cache")
    other.mkdir()
    (other / "of somebody else").touch()
    run(plan, monkeypatch, "--fresh")
    assert not (Path("out/record.cache") / "program").exists()
    suite.main(["--out", "out/other.json", "--fresh"])
    assert (other / "of somebody else").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_it_leaves_a_record_to_go_on_from(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = "if not os.path.exists('ready'): open('begun', 'w'); time.sleep(60)\n"
    plan = Plan((), (part("first"), part("second", slow + STEP)))

    def interrupt() -> None:
        while not Path("begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    status, record = run(plan, monkeypatch)
    thread.join()
    assert status == 130
    assert time.monotonic() - start < 40
    assert statuses(record) == {"first": "done", "second": "skipped"}
    assert_valid(record, "gpu_suite")
    assert number.name in capsys.readouterr().out
    Path("ready").touch()
    assert run(plan, monkeypatch, "--continue")[0] == 0


def test_the_record_is_valid_on_the_disk_after_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves: each command sees what those before it left."""
    look = "open(NAME + '.seen', 'w').write(open('out/record.json').read())\n"
    plan = Plan(
        (job("compile m torch", look + COMPILED),), (part("a", look + STEP, (TORCH,)), part("b", look + STEP, (TORCH,)))
    )
    run(plan, monkeypatch)
    seen = [json.loads(Path(f"{name}.seen").read_text()) for name in ("compile m torch", "a", "b")]
    for record in seen:
        assert_valid(record, "gpu_suite")
    assert [list(statuses(record).values()) for record in seen] == [
        ["skipped"] * 2,
        ["skipped"] * 2,
        ["done", "skipped"],
    ]
    assert seen[1]["compile"]["arms"]["m torch"]["status"] == "done"


def test_what_disturbed_is_said_three_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "busy_before", lambda machine: ["the load was 9.0 on 2 cores before the start"])
    monkeypatch.setattr(suite, "gpu_use", lambda: {"processes": 2, "utilisation_percent": 0.0, "memory_mib": 3.0})
    hot = "print(json.dumps({'kind': 'other', 'warnings': ['the GPU slowed its clock (too hot)']}))"
    status, record = run(Plan((), (part("step", hot),)), monkeypatch)
    assert status == 0, "a figure with a warning is a figure"
    said = capsys.readouterr()
    for warning in ("the load was 9.0", "2 other process(es) held the GPU", "step: the GPU slowed its clock (too hot)"):
        assert any(warning in one for one in record["warnings"])
        assert f"warning: {warning}" in said.err
        assert f"warning: {warning}" in said.out


def options(**change: object) -> argparse.Namespace:
    namespace: argparse.Namespace = suite.parse([])
    for name, value in change.items():
        setattr(namespace, name, value)
    return namespace


def words_of(plan: Plan) -> Iterator[tuple[str, ...]]:
    yield from (job.words for job in plan.first)
    for measurement in plan.measurements:
        job = measurement.command(lambda key: True, 60.0)
        assert job is not None
        yield job.words


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_plan_is_made_of_commands_that_there_are_and_fits_into_ten_minutes(precision: str) -> None:
    from anatobench.cli.main import build_parser

    plan = suite.whole_plan(options(models=PAPERS, precision=precision, batch_size=2, memory_limit=1.0), Path("cache"))
    for words in words_of(plan):
        build_parser([words[0]]).parse_args(words)
    assert plan.parts() == [
        "parity", *(f"step_{model}" for model in PAPERS), "head", "memory_torch", "memory_jax",
    ]  # fmt: skip
    assert sum(m.reserve for m in plan.measurements) <= 9.5 * 60 / 2, "compiling takes the longer half"
    measured = {f"compile {m.key(arm)}" for m in plan.measurements for arm in m.arms}
    compiled = {job.name for job in plan.first if job.name.startswith("compile")}
    assert compiled <= measured, "nothing is compiled for nothing"
    uncompiled = {name.partition(":")[2] for name in measured - compiled}
    assert not uncompiled & set(suite.COMPILED_PEERS)
    assert all(name.partition(":")[2] for name in measured - compiled), "frameworks always compile first"


def test_a_part_alone_compiles_only_what_it_needs() -> None:
    plan = suite.whole_plan(options(), Path("cache"))
    assert [job.name for job in plan.restricted(["memory_jax"]).first] == ["compile r3d_18 jax"]
    assert [job.name for job in plan.restricted(["parity"]).first] == [j.name for j in plan.first if "parity" in j.name]
    assert plan.restricted(["head"]).parts() == ["head"]


def test_the_heads_share_is_measured_of_pairs() -> None:
    plan = suite.whole_plan(options(), Path("cache"))
    (head,) = (m for m in plan.measurements if m.name == "head")
    every = head.command(lambda key: True, 60.0)
    assert every is not None
    assert every.words[-3:] == ("--framework", "torch,jax", "--both-seg")
    one = head.command(lambda key: key != "r3d_18 jax without head", 60.0)
    assert one is not None
    assert one.words[-3:] == ("--framework", "torch", "--both-seg")
    assert head.command(lambda key: "without" not in key, 60.0) is None


def test_without_a_gpu_it_says_so_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "visible_gpus", lambda: [])
    assert suite.main(["--out", "x.json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no NVIDIA GPU is visible here" in err
    assert "--size tiny" in err
    assert list(Path().glob("x.*")) == []


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--parts", "step_r3d_18,nothing", "--out", "x.json"]) == 2
    assert "no part nothing: there are parity, step_r3d_18" in capsys.readouterr().err
    for words in (
        ["--models", "r3d_18,r3d_18"],
        ["--models", "x"],
        ["--minutes", "0"],
        ["--jobs", "0"],
        ["--repeats", "1"],
    ):
        with pytest.raises(SystemExit):
            suite.main(words)
    assert not Path("x.json").exists()


@pytest.mark.slow
def test_the_script_at_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preloaded: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("flax")
    monkeypatch.chdir(ROOT)
    words = "--size tiny --models r3d_18 --batch-size 1 --precision fp32 --peers eager --repeats 2 --memory-limit 0.02"
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu_suite.sh", *words.split(), "--jobs", "2", "--out", tmp_path / "record.json"],
        env={**os.environ, "PYTHON": str(preloaded)},
        capture_output=True,
        text=True,
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert_valid(record, "gpu_suite")
    assert done.returncode == 1, "memory is missing"
    parts = record["parts"]
    assert {name for name, found in parts.items() if found["status"] == "done"} == {"parity", "step_r3d_18", "head"}
    assert [found["dtype"] for found in parts["parity"]["record"]].count("float32") == 1
    assert len(parts["parity"]["record"]) == 3
    step = parts["step_r3d_18"]["record"]
    assert [arm["name"] for arm in step["arms"]] == ["torch", "jax", "torchvision:eager"]
    assert step["same_first_loss"] is True
    assert [arm["name"] for arm in parts["head"]["record"]["arms"]][2:] == ["torch without head", "jax without head"]
    compiled = record["compile"]["arms"]["r3d_18 jax"]
    assert (compiled["status"], compiled["compile_cache"]) == ("done", "empty")
    assert compiled["from_cache_s"] is not None
    for framework in ("torch", "jax"):
        assert "not even one case fits" in parts[f"memory_{framework}"]["error"], "20 MiB are not enough for a step"
    assert "torchvision:eager / torch" in done.stdout
    assert "the head's share of jax's step" in done.stdout
    assert (tmp_path / "record.cache").is_dir(), "for --continue"
