"""Both frameworks' checkpoints: written while training goes on, read by either, every flipped byte found."""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_checkpoints import newest_checkpoint
from small_disk import FULL, small_disk

from anatobench.engine import Arrays, Engine, ModelSpec, load_engine
from anatobench.errors import AnatoBenchError
from anatobench.recipes import Recipe
from anatobench.store.batch import Batch
from anatobench.tasks import get_task
from anatobench.training.checkpoints import CheckpointSaver, Progress, read_checkpoint, read_newest

pytestmark = pytest.mark.usefixtures("shallow_models")

TASK = get_task("ct_rate")
SPEC = ModelSpec("r3d_18", "tiny", TASK, (16, 16, 16))
FRAMEWORKS = ("torch", "jax")


@cache
def untouched_engine(framework: str, precision: str) -> tuple[Engine, dict[str, Arrays]]:
    """One for all tests, which compiles its step once, and its state."""
    pytest.importorskip(framework)
    engine = load_engine(framework, SPEC, Recipe(precision=precision))
    return engine, engine.state()


def engine_of(framework: str, precision: str = "fp32") -> Engine:
    """Return it as it was before any step."""
    engine, first = untouched_engine(framework, precision)
    engine.load_state(first)
    return engine


def batch() -> Batch:
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 200, (2, *SPEC.crop_size), dtype=np.int16)
    targets = rng.integers(0, 2, (2, len(TASK.groups))).astype(np.int8)
    organs = rng.integers(0, TASK.segmentation_classes, (2, *SPEC.crop_size)).astype(np.uint8)
    arrays: Arrays = {"volume": volume, "targets": targets, "organs": organs, "has_mask": np.ones(2, bool)}
    return Batch(arrays, np.arange(2))


def progress_of(framework: str, step: int) -> Progress:
    return Progress(step, 0, {"step": step}, 0, None, framework, {})


def saved(run: Path, framework: str, steps: tuple[int, ...] = (1,), precision: str = "fp32") -> list[dict[str, Arrays]]:
    """Train and save after every one of these steps; the states that were to be saved."""
    engine, states = engine_of(framework, precision), []
    saver = CheckpointSaver(run, engine.saver())
    for step in range(1, max(steps) + 1):
        engine.train_step(batch(), 1e-2, step - 1).fetch()
        if step in steps:
            states.append(engine.state())
            saver.begin(progress_of(framework, step))
    engine.train_step(batch(), 1e-2, max(steps)).fetch()  # while the last one is on its way
    saver.wait()
    assert saver.sealed_step == max(steps)
    saver.close()
    return states


def assert_same(found: dict[str, Arrays], expected: dict[str, Arrays]) -> None:
    assert found.keys() == expected.keys()
    for tree, arrays in expected.items():
        assert found[tree].keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[tree][name].dtype, found[tree][name].shape) == (array.dtype, array.shape), name
            assert found[tree][name].tobytes() == array.tobytes(), f"{tree}: {name}"


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_read_is_what_was_while_training_went_on(tmp_path: Path, framework: str, precision: str) -> None:
    *_, last = saved(tmp_path, framework, (1, 2), precision)
    found = newest_checkpoint(tmp_path)
    assert found.progress == progress_of(framework, 2)
    assert_same(dict(found.trees), last)
    form = {"torch": "model.safetensors", "jax": "orbax"}[framework]
    assert (tmp_path / "checkpoints" / "step_00000002" / form).exists()


@pytest.mark.parametrize(("writer", "reader"), [("torch", "jax"), ("jax", "torch")])
def test_the_other_framework_goes_on_from_it(tmp_path: Path, writer: str, reader: str) -> None:
    (state,) = saved(tmp_path, writer)
    engine = engine_of(reader)
    engine.load_state(newest_checkpoint(tmp_path).trees)
    assert_same(engine.state(), state)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_flipped_byte_in_any_file_is_named_and_passed_over(
    tmp_path: Path, framework: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = saved(tmp_path, framework, (1, 2))
    newest = tmp_path / "checkpoints" / "step_00000002"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len(files) >= 3
    rng = np.random.default_rng(0)
    for path in files:
        content = path.read_bytes()
        place = int(rng.integers(len(content)))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        capsys.readouterr()
        assert_same(dict(newest_checkpoint(tmp_path).trees), first)
        assert f"{path}: damaged checkpoint" in capsys.readouterr().err
        path.write_bytes(content)
    assert newest_checkpoint(tmp_path).progress.step == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_state_that_is_not_finite_is_never_sealed(tmp_path: Path, framework: str) -> None:
    engine = engine_of(framework)
    weights = engine.weights()
    weights["fc.weight"][0, 0] = np.inf
    engine.load_weights(weights)
    saver = CheckpointSaver(tmp_path, engine.saver())
    saver.begin(progress_of(framework, 3))
    with pytest.raises(AnatoBenchError, match=r"step 3: weight fc\.weight is not finite"):
        saver.wait()
    saver.close()
    assert read_newest(tmp_path) is None
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_disk_that_fills_says_so_itself(tmp_path: Path, framework: str, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", 300 << 10) as disk:
        with pytest.raises(AnatoBenchError, match=rf"step_00000001: cannot be written \({FULL}\)"):
            saved(disk.root, framework)
        assert list((disk.root / "checkpoints").iterdir()) == []
    gc.collect()  # what was still being written when the first write failed has its say here, if ever
    assert "Traceback" not in capfd.readouterr().err


def test_a_part_that_another_process_could_not_write_is_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax misses the other's files too, at times before anybody asks for its part, and says what helps nobody."""

    def incomplete(directory: Path) -> None:
        raise ValueError("ArrayMetadata Store contains metadata from just one process")

    saver: Any = engine_of("jax").saver()
    monkeypatch.setattr(saver._errors, "_finalize", incomplete)
    pending = saver.begin(tmp_path)
    with pytest.raises(ValueError, match="from just one process"):  # alone, it is Orbax's own fault
        pending.finish()
    monkeypatch.setattr(saver, "_processes", dataclasses.replace(saver._processes, count=2))
    with pytest.raises(AnatoBenchError, match="process 1 of 2 could not write its part"):
        saver.begin(tmp_path / "together").finish()
    saver.close()


def test_orbax_is_read_where_there_is_no_jax(tmp_path: Path) -> None:
    (state,) = saved(tmp_path, "jax")
    code = (
        "import sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'orbax', 'orbax.checkpoint'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from anatobench.training.checkpoints import read_newest\n"
        "print(float(read_newest(Path(sys.argv[1])).weights['fc.weight'].sum(dtype='f8')))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True).stdout
    assert float(said) == float(state["model"]["fc.weight"].sum(dtype="f8"))


def test_orbax_itself_restores_the_named_trees(tmp_path: Path) -> None:
    """What the folder `orbax` holds is a checkpoint of Orbax's like any other."""
    (state,) = saved(tmp_path, "jax")
    ocp = pytest.importorskip("orbax.checkpoint")
    as_numpy = {tree: {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in state[tree]} for tree in state}
    with ocp.PyTreeCheckpointer() as checkpointer:
        wanted = ocp.args.PyTreeRestore(restore_args=as_numpy)
        restored = checkpointer.restore(tmp_path / "checkpoints" / "step_00000001" / "orbax", args=wanted)
    found = {tree: {name: np.asarray(array) for name, array in arrays.items()} for tree, arrays in restored.items()}
    assert_same(found, state)


def test_a_folder_of_another_tree_is_damaged(tmp_path: Path) -> None:
    saved(tmp_path, "jax")
    with pytest.raises(AnatoBenchError, match="damaged checkpoint"):
        read_checkpoint(tmp_path / "checkpoints")


def test_the_pages_own_code_reads_with_orbax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, in the folder of the runs: Orbax takes no relative path."""
    (expected,) = saved(tmp_path / "RUN", "jax")
    page = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("step_00000200", "step_00000001"), found)
    name = "exp_avg/fc.weight"
    np.testing.assert_array_equal(found["trees"]["optimizer"][name], expected["optimizer"][name])
