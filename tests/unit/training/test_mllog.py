"""MLPerf's log of a run, whole and stopped, and the checker that refuses what is missing or out of order."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy_engine import Measured, NumpyEngine, use_numpy_engines
from tiny_store import write_store

from anatobench.bench.mllog_check import check_mllog
from anatobench.cli.main import main
from anatobench.store.batch import Batch
from anatobench.store.reader import Store
from anatobench.training.mllog import TOKEN


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def numpy_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    use_numpy_engines(monkeypatch)


def arguments(store: Store, run: Path, *more: str) -> list[str]:
    return ["train", "--task", "findings", "--store", str(store.root), "--model", "r3d_18", "--framework", "torch",
            "--out", str(run), "--set", "batch_size=2", "--epochs", "3", "--mllog", *more]  # fmt: skip


def keys(log: Path) -> list[tuple[str, int | None]]:
    events = [json.loads(line.removeprefix(TOKEN)) for line in log.read_text().splitlines()]
    return [(event["key"], event["metadata"].get("epoch_num")) for event in events]


@pytest.fixture(scope="module")
def log(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patched:
        use_numpy_engines(patched)
        assert main(arguments(store, run)) == 0
    return run / "mlperf.log"


def test_a_run_writes_what_the_checker_takes(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "mllog", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["passed"], found["problems"]) == (True, [])
    first = log.read_text().splitlines()[0]
    assert first.startswith(":::MLLOG {")
    assert list(json.loads(first.removeprefix(TOKEN))) == [
        "namespace", "time_ms", "event_type", "key", "value", "metadata",
    ]  # fmt: skip
    epoch = ("epoch_start", "epoch_stop", "eval_start", "eval_accuracy", "eval_stop")
    assert keys(log)[-17:] == [
        ("run_start", None), *((key, number) for number in (1, 2, 3) for key in epoch), ("run_stop", None),
    ]  # fmt: skip
    assert found["keys"]["epoch_start"] == found["keys"]["eval_accuracy"] == 3


def edited(log: Path, folder: Path, edit: Callable[[list[dict[str, Any]]], object]) -> list[str]:
    events = [json.loads(line.removeprefix(TOKEN)) for line in log.read_text().splitlines()]
    edit(events)
    (folder / "edited.log").write_text("".join(f"0: {TOKEN}{json.dumps(event)}\n" for event in events) + "a word\n")
    return list(check_mllog(folder / "edited.log")["problems"])


def place(events: list[dict[str, Any]], key: str) -> int:
    return next(index for index, event in enumerate(events) if event["key"] == key)


ALL = (
    "cache_clear", "init_start", "submission_benchmark", "submission_org", "submission_division", "submission_status",
    "submission_platform", "seed", "global_batch_size", "train_samples", "eval_samples", "init_stop", "run_start",
    "run_stop",
)  # fmt: skip


@pytest.mark.parametrize("key", ALL)
def test_a_missing_key_is_refused(log: Path, tmp_path: Path, key: str) -> None:
    problems = edited(log, tmp_path, lambda events: events.pop(place(events, key)))
    assert f"{key} is missing" in problems


@pytest.mark.parametrize("key", ["epoch_start", "epoch_stop", "eval_start", "eval_stop"])
def test_a_pair_that_is_broken_is_refused(log: Path, tmp_path: Path, key: str) -> None:
    problems = edited(log, tmp_path, lambda events: events.pop(place(events, key)))
    assert problems
    assert all("line " in problem for problem in problems)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("init_stop", "run_start", "run_start comes before init_stop"),
        ("init_start", "init_stop", "init_stop comes before init_start"),
        ("run_start", "epoch_start", "epoch_start comes before run_start"),
        ("seed", "run_start", "seed comes after run_start"),
        ("eval_start", "eval_accuracy", "eval_accuracy: of epoch 1, but the evaluation of none has started"),
        ("eval_stop", "run_stop", "comes after run_stop"),
    ],
)
def test_keys_out_of_order_are_refused(log: Path, tmp_path: Path, first: str, second: str, said: str) -> None:
    def swap(events: list[dict[str, Any]]) -> None:
        one, other = place(events, first), place(events, second)
        for name in ("event_type", "key", "value", "metadata"):  # the times stay in order
            events[one][name], events[other][name] = events[other][name], events[one][name]

    assert any(said in problem for problem in edited(log, tmp_path, swap))


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("run_stop", {"metadata": {}}, "must have a status"),
        ("eval_accuracy", {"value": None}, "a number"),
        ("eval_accuracy", {"metadata": {"epoch_num": "1"}}, "epoch_num, from 1"),
        ("run_start", {"event_type": "POINT_IN_TIME"}, "not INTERVAL_START"),
        ("run_start", {"time_ms": 5.5}, "time_ms must be a whole number"),
        ("init_stop", {"time_ms": 1}, "ms before the line above"),
        ("submission_division", {"value": "ajar"}, "closed or open"),
        ("submission_org", {"value": ""}, "has no value"),
        ("seed", {"metadata": []}, "metadata must be an object"),
    ],
)
def test_wrong_values_are_refused(log: Path, tmp_path: Path, key: str, change: dict[str, Any], said: str) -> None:
    problems = edited(log, tmp_path, lambda events: events[place(events, key)].update(change))
    assert any(said in problem for problem in problems), problems


def test_a_store_without_validation_is_why_evaluations_are_missing(log: Path, tmp_path: Path) -> None:
    def without(events: list[dict[str, Any]]) -> None:
        events[place(events, "eval_samples")]["value"] = 0
        events[:] = [event for event in events if event["key"] not in ("eval_start", "eval_stop", "eval_accuracy")]

    problems = edited(log, tmp_path, without)
    assert len(problems) == 3
    assert all("is missing (the store had no validation cases" in problem for problem in problems)


def test_twice_is_not_once_and_garbage_is_named(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(events: list[dict[str, Any]]) -> None:
        events.insert(2, dict(events[place(events, "submission_org")]))

    assert "submission_org is there 2 times, not once" in edited(log, tmp_path, twice)
    (tmp_path / "cut.log").write_text(log.read_text()[:-30])
    assert main(["bench", "mllog", str(tmp_path / "cut.log")]) == 1
    said = capsys.readouterr().out
    assert "no JSON after :::MLLOG" in said
    assert "run_stop is missing" in said
    assert main(["bench", "mllog", str(tmp_path / "none.log")]) == 1


@pytest.mark.parametrize("stopped_at", [2, 3, 4, 7])
def test_a_run_that_was_stopped_goes_on_with_its_log(
    store: Store, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    take_step = NumpyEngine.train_step

    def stopping(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        if step == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, batch, rate, step, *rest)

    monkeypatch.setattr(NumpyEngine, "train_step", stopping)
    assert main(arguments(store, tmp_path / "run")) == 130
    monkeypatch.setattr(NumpyEngine, "train_step", take_step)
    assert main(arguments(store, tmp_path / "run", "--resume")) == 0
    assert keys(tmp_path / "run" / "mlperf.log") == keys(log)
    assert check_mllog(tmp_path / "run" / "mlperf.log")["problems"] == []
    ended = (tmp_path / "run" / "mlperf.log").read_bytes()
    assert main(arguments(store, tmp_path / "run", "--resume")) == 0
    assert (tmp_path / "run" / "mlperf.log").read_bytes() == ended, "a run that has ended has ended"


def test_a_run_that_fails_is_aborted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: NumpyEngine, batch: Batch, rate: float, step: int, *rest: Any) -> Measured:
        raise MemoryError("out of memory")

    monkeypatch.setattr(NumpyEngine, "train_step", failing)
    assert main(arguments(store, tmp_path / "run")) == 1
    last = json.loads((tmp_path / "run" / "mlperf.log").read_text().splitlines()[-1].removeprefix(TOKEN))
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
