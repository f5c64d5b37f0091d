"""The step benchmark: what its record promises, that arms take turns on the same bytes, and what failing costs."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_status import exit_status

from anatobench.bench.arm_cache import FOLDERS, arm_cache
from anatobench.bench.arms import Arm
from anatobench.bench.compilation import bench_compilation
from anatobench.bench.memory import MemoryBenchmark, bench_memory
from anatobench.bench.random_batch import random_batch, read_batch, write_batch
from anatobench.bench.step import StepBenchmark, bench_step
from anatobench.cli.main import main
from anatobench.engine import ModelSpec
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.recipes import Recipe
from anatobench.system.compile_cache import VARIABLE
from anatobench.tasks import TASKS

PEER = Path(__file__).parents[2] / "support" / "numpy_peer.py"
TASK = TASKS["ct_rate"]
SPEC = ModelSpec("r3d_18", "tiny", TASK, TASK.geometry("tiny").crop_size)
COMMAND = ["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", "--batch-size", "1", "--json"]


def arms(*variants: str) -> tuple[Arm, ...]:
    return tuple(Arm(None, PEER, variant) for variant in variants)


def measured(*variants: str, **options: Any) -> dict[str, Any]:
    recipe = Recipe(batch_size=2)
    return bench_step(StepBenchmark(arms(*variants), SPEC, recipe, **{"rounds": 5, **options}))


def test_arms_take_turns_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from anatobench.bench import step as module
    from anatobench.bench.arms import ArmProcess

    turns = []

    class Noted(ArmProcess):
        def send(self, what: str, **details: object) -> None:
            if what == "turn":
                turns.append((self.arm.variant, details["settling_steps"]))
            super().send(what, **details)

    monkeypatch.setattr(module, "ArmProcess", Noted)
    record = measured("plain", "slow", rounds=3)
    assert turns == [(name, 1) for name in ("plain", "slow", "slow", "plain", "plain", "slow")]
    assert [len(arm["seconds"]) for arm in record["arms"]] == [3, 3]
    assert record["arms"][1]["median_s"] >= 0.02
    assert record["ratios"][0]["ci95"][0] > 1, "the slow one is slower beyond doubt"
    assert record["same_first_loss"] is True, "both began with the weights of the first"
    assert record["arms"][1]["precision"] == "bf16", "a peer's own precision is what its operations count against"


def test_a_failing_arm_does_not_stop_the_others() -> None:
    record = measured("dies", "plain", "starved", "prints", "diverges")
    assert [arm["name"] for arm in record["arms"]] == ["numpy_peer:plain", "numpy_peer:prints"]
    assert record["name"] == "numpy_peer:plain"
    failed = {name.partition(":")[2]: failure for name, failure in record["failed"].items()}
    assert set(failed) == {"dies", "starved", "diverges"}
    assert failed["dies"]["out_of_memory"], "killed with signal 9 is what the system does to a process too large"
    assert failed["starved"]["out_of_memory"]
    assert not failed["diverges"]["out_of_memory"]
    assert "the loss of step 1 is nan" in failed["diverges"]["error"]


def test_an_arm_that_fails_is_the_commands_failure_but_its_record_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--repeats", "2", "--peer", f"{PEER}:plain,starved"]) == 1
    said = capsys.readouterr()
    record = json.loads(said.out.splitlines()[-1])
    assert [arm["name"] for arm in record["arms"]] == ["numpy_peer:plain"]
    assert record["failed"]["numpy_peer:starved"]["out_of_memory"]
    assert "numpy_peer:starved failed: MemoryError: no more" in said.err
    assert main([*COMMAND, "--repeats", "2", "--peer", f"{PEER}:plain"]) == 0


def test_utilisation_is_of_the_data_sheet_and_of_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from anatobench.bench import step as module
    from anatobench.cli.bench_step import print_step

    monkeypatch.setattr(module, "peak_flops", lambda device, precision: {"fp32": 4e9}.get(precision))
    record = measured("plain", "slow")
    sheet, measured_alone = record["arms"]
    assert (
        sheet["mfu"] == sheet["mfu_data_sheet"] == pytest.approx(sheet["mfu_measured"] / 4)
    )  # the peer's product: 1e9
    assert sheet["mfu_of"] == "data sheet"
    assert measured_alone["mfu_data_sheet"] is None, "the slow one's precision is another"
    assert measured_alone["mfu"] == measured_alone["mfu_measured"]
    print_step(record)
    lines = capsys.readouterr().out.splitlines()
    assert f"MFU {100 * sheet['mfu_data_sheet']:.1f} % of the data sheet, " in lines[1]
    assert f"{100 * sheet['mfu_measured']:.1f} % of a measured product" in lines[1]
    assert "data sheet" not in lines[2]


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_first_losses_are_compared_wherever_nothing_is_drawn_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    """Without dropout, which the arms must be told of, a model that draws it proves equal work, too."""
    words = [*COMMAND, "--repeats", "2", "--peer", f"{PEER}:plain,prints"]
    swin = [word if word != "r3d_18" else "swin3d_t" for word in words]
    found = []
    for asked in (words, swin, [*swin, "--set", "dropout=false"]):
        assert main(asked) == 0
        said = capsys.readouterr()
        found.append((json.loads(said.out.splitlines()[-1])["same_first_loss"], "first losses agree" in said.err))
    assert found == [(True, True), (None, False), (True, True)], "r3d_18 has no dropout to draw"


def test_a_person_is_told_what_the_first_losses_prove(capsys: pytest.CaptureFixture[str]) -> None:
    from anatobench.cli.bench_step import print_step

    record = measured("plain", "prints", rounds=2)
    said = []
    for found in (record, {**record, "same_first_loss": None}, {**record, "arms": record["arms"][:1]}):
        print_step(found)
        said.append([line for line in capsys.readouterr().out.splitlines() if "first losses" in line])
    (agreeing,), (not_compared,), alone = said
    assert agreeing == "first losses agree"
    assert "dropout: --set dropout=false" in not_compared
    assert not alone, "nothing to compare with"


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_compile_times_say_whether_anything_was_cached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--cache", str(tmp_path / "cache")]
    peers = ["--peer", f"{PEER}:plain,caches,starved"]
    assert main([*words, "--compile-only", *peers]) == 1
    said = capsys.readouterr()
    compiled = json.loads(said.out.splitlines()[-1])
    assert compiled["kind"] == "compile"
    assert {arm["name"]: arm["compile_cache"] for arm in compiled["arms"]} == {
        "numpy_peer:plain": "empty", "numpy_peer:caches": "empty",
    }  # fmt: skip
    assert compiled["arms"][0]["compile_s"] > 0
    assert "no more" in compiled["failed"]["numpy_peer:starved"]["error"]
    assert "(nothing cached)" in said.err
    assert main([*words, "--repeats", "2", "--peer", f"{PEER}:plain,caches"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [arm["compile_cache"] for arm in record["arms"]] == ["empty", "filled"], "each arm has its own"
    assert record["protocol"]["compilation_cache"] is True
    assert measured("plain")["compile_cache"] is None, "whose cache it is nobody knows"


def test_an_arms_cache_is_the_only_one_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOLDERS:
        monkeypatch.setenv(name, "everybody's")
    own, peer = arm_cache(tmp_path, Arm("jax")).environment, arm_cache(tmp_path, arms("plain")[0]).environment
    assert own[VARIABLE] == str(tmp_path / "jax")
    assert not set(FOLDERS) & set(own), "they would win"
    assert {Path(peer[name]).parent for name in FOLDERS} == {tmp_path / "numpy_peer_plain"}
    assert arm_cache(None, Arm("jax")).environment["TRITON_CACHE_DIR"] == "everybody's"
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--cache"):
        arm_cache(tmp_path / "file", Arm("jax"))


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_only_compiling_ends_in_time() -> None:
    start = time.monotonic()
    asked = StepBenchmark(arms("hangs", "plain"), SPEC, Recipe(batch_size=1), seconds=2.5)
    record = bench_compilation(asked)
    assert time.monotonic() - start < 40
    assert "not ready" in record["failed"]["numpy_peer:hangs"]["error"]
    assert record["passed"] is False


def test_an_arm_that_changes_the_batch_is_found_out() -> None:
    with pytest.raises(AnatoBenchError, match="did not see the batch"):
        measured("plain", "changes_batch")


def test_another_loss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from anatobench.bench import arms as module

    ask = module.ArmProcess.send
    monkeypatch.setattr(
        module.ArmProcess,
        "send",
        lambda self, what, **d: ask(self, "describe" if what == "load_weights" else what, **d),
    )
    record = measured("plain", "prints")  # without load_weights each begins with its own
    assert record["same_first_loss"] is False


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_limited_time_ends_with_whole_rounds_and_leaves_out_who_is_not_ready() -> None:
    start = time.monotonic()
    record = measured("plain", "hangs", seconds=4.0, rounds=100_000)
    assert time.monotonic() - start < 60
    assert "not ready" in record["failed"]["numpy_peer:hangs"]["error"]
    assert 2 <= record["repeats"] < 100_000


def test_the_cpu_is_not_measured_where_the_job_has_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    asked = StepBenchmark(arms("plain"), SPEC, Recipe(batch_size=1), rounds=2)
    memory = MemoryBenchmark(arms("plain")[0], SPEC, Recipe(batch_size=1), at_most=1)
    refusal = r"^numpy_peer:plain: this job has GPUs \(SLURM_GPUS_ON_NODE=2\)"
    with pytest.raises(AnatoBenchError, match=refusal):
        bench_step(asked)
    with pytest.raises(AnatoBenchError, match=refusal):
        bench_memory(memory)
    (failure,) = bench_compilation(asked)["failed"].values()
    assert "would compute on the CPU" in failure["error"]
    monkeypatch.setenv("ANATOBENCH_DEVICE", "cpu")
    assert bench_step(asked)["passed"]


def test_nobody_left_is_an_error() -> None:
    with pytest.raises(AnatoBenchError, match="numpy_peer:starved: MemoryError: no more"):
        measured("starved")


def test_random_batch_is_no_batch_of_zeros_and_crosses_files(tmp_path: Path) -> None:
    task = TASKS["ratic"]
    spec = ModelSpec("r3d_18", "tiny", task, task.geometry("tiny").crop_size)
    batch = random_batch(spec, 8, seed=1)
    assert batch["volume"].dtype == np.int16
    assert (batch["volume"] == 0).mean() < 0.02
    assert set(np.unique(batch["organs"])) == set(range(task.segmentation_classes))
    assert batch.digest() == random_batch(spec, 8, seed=1).digest() != random_batch(spec, 8, seed=2).digest()
    write_batch(batch, tmp_path)
    assert read_batch(tmp_path).digest() == batch.digest()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--framework", "torch", "--repeats", "1"], "--repeats"),
        (["--repeats", "3"], "name what to measure"),
        (["--framework", "torch,torch"], "named twice"),
        (["--framework", "torch", "--set", "epochs=3"], "only recompute"),
        (["--framework", "torch", "--batch-size", "0"], "--batch-size"),
        (["--peer", "nowhere.py:eager"], "no such Python file"),
        (["--peer", f"{PEER}:unknown"], "no variant"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--size", "tiny", *words]) in (
        1,
        2,
    )
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("begins_at_once")
def test_every_arm_leaves_a_trace_after_the_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*COMMAND, "--repeats", "2", "--peer", f"{PEER}:plain,slow", "--profile", str(tmp_path / "traces")]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [arm["trace"] for arm in record["arms"]] == ["trace", "trace"]
    for name in ("numpy_peer_plain", "numpy_peer_slow"):
        assert (tmp_path / "traces" / name / "steps.txt").read_text().split() == ["step"] * 5
    assert [len(arm["seconds"]) for arm in record["arms"]] == [2, 2], "traced steps are not timed"
    assert main([*words, "--profile-kind", "nsys"]) == 0
    assert "numpy_peer:plain: profile: no nsys here: trace" in capsys.readouterr().err
