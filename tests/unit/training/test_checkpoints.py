"""Checkpoints on disk: whole, verified, kept and passed over."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anatobench.engine import Arrays
from anatobench.errors import AnatoBenchError
from anatobench.training.checkpoints import (
    Best,
    Checkpoint,
    Progress,
    clear_leftovers,
    read_best,
    read_newest,
    record_best,
    save_checkpoint,
    saving,
)
from anatobench.training.checkpoints.state_file import sealed


def checkpoint(step: int, best: Best | None = None) -> Checkpoint:
    rng = np.random.default_rng(step)
    weights: Arrays = {
        "stem.weight": rng.normal(size=(3, 2)).astype(np.float32).T,  # not contiguous
        "norm.num_batches_tracked": np.array(step, dtype=np.int64),
    }
    optimizer: Arrays = {"exp_avg/stem.weight": rng.normal(size=(2, 3)), "step": np.array(step, dtype=np.int64)}
    progress = Progress(step, step // 4, {"step": step, "seed": 0}, 0, best, "torch", {"torch": "2"})
    return Checkpoint(progress, {"model": weights, "optimizer": optimizer})


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_same(left: Checkpoint | None, right: Checkpoint) -> None:
    assert left is not None
    assert left.progress == right.progress
    assert left.trees.keys() == right.trees.keys()
    for found, expected in ((left.trees[tree], right.trees[tree]) for tree in right.trees):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)


def test_reads_back_every_bit(tmp_path: Path) -> None:
    saved = checkpoint(8, Best(8, "auc_macro", 0.1 + 0.2))
    save_checkpoint(tmp_path, saved)
    assert_same(read_newest(tmp_path), saved)
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text()) == {
        "step": 8,
        "auc_macro": 0.1 + 0.2,
        "checkpoint": "step_00000008",
    }


def test_keeps_the_last_two_and_the_best(tmp_path: Path) -> None:
    for step in (4, 8, 12, 16, 20):
        save_checkpoint(
            tmp_path, checkpoint(step, Best(8, "auc_macro", 0.9) if step >= 8 else Best(4, "auc_macro", 0.5))
        )
    assert folders(tmp_path) == ["best.json", "step_00000008", "step_00000016", "step_00000020"]
    assert_same(read_best(tmp_path), checkpoint(8, Best(8, "auc_macro", 0.9)))


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(99_999_999))
    save_checkpoint(tmp_path, checkpoint(100_000_000))
    newest = read_newest(tmp_path)
    assert newest is not None
    assert newest.progress.step == 100_000_000


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def change_a_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"evaluated_step": 0', '"evaluated_step": 1'))


def written(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.json", written("null")),
        ("state.json", written("[]")),
        ("state.json", written("[" * 100_000)),
        ("model.safetensors", flip_a_bit),
        ("optimizer.safetensors", cut_short),
        ("model.safetensors", Path.unlink),
        ("state.json", cut_short),
        ("state.json", change_a_number),
        ("state.json", Path.unlink),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    save_checkpoint(tmp_path, checkpoint(8))
    damage(tmp_path / "checkpoints" / "step_00000008" / name)
    assert_same(read_newest(tmp_path), checkpoint(4))
    assert f"step_00000008/{name}: damaged checkpoint" in capsys.readouterr().err
    save_checkpoint(tmp_path, checkpoint(8))  # reached again
    assert_same(read_newest(tmp_path), checkpoint(8))


def test_going_back_forgets_what_came_later(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    save_checkpoint(tmp_path, checkpoint(12, Best(12, "auc_macro", 0.9)))
    record_best(tmp_path, None)
    save_checkpoint(tmp_path, checkpoint(8))
    assert folders(tmp_path) == ["step_00000004", "step_00000008"]


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    assert read_newest(tmp_path) is None
    with pytest.raises(AnatoBenchError, match="no checkpoint yet"):
        read_best(tmp_path)
    save_checkpoint(tmp_path, checkpoint(4))
    (tmp_path / "checkpoints" / "step_00000004" / "state.json").write_text("{}")
    with pytest.raises(AnatoBenchError, match="every checkpoint is damaged"):
        read_newest(tmp_path)


def test_a_damaged_best_checkpoint_is_an_error_rather_than_another_model(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4, Best(4, "auc_macro", 0.9)))
    save_checkpoint(tmp_path, checkpoint(8, Best(4, "auc_macro", 0.9)))
    flip_a_bit(tmp_path / "checkpoints" / "step_00000004" / "model.safetensors")
    with pytest.raises(AnatoBenchError, match="step_00000004"):
        read_best(tmp_path)


@pytest.mark.parametrize("step", ["1e999", "-1", "[]", "NaN", '"x"'])
def test_a_best_file_that_lies_is_one_sentence(tmp_path: Path, step: str) -> None:
    save_checkpoint(tmp_path, checkpoint(4, Best(4, "auc_macro", 0.9)))
    (tmp_path / "checkpoints" / "best.json").write_text(f'{{"step": {step}, "auc_macro": 0.9}}')
    with pytest.raises(AnatoBenchError, match="damaged"):
        read_best(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "model.pkl", "/etc/passwd", "MODEL.safetensors", ""])
def test_a_state_that_names_strange_files_is_damaged(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its checksum is right."""
    save_checkpoint(tmp_path, checkpoint(4))
    path = save_checkpoint(tmp_path, checkpoint(8)) / "state.json"
    state = {key: value for key, value in json.loads(path.read_text()).items() if key != "blake2b"}
    for wrong in ({"files": {**state["files"], name: state["files"]["model.safetensors"]}}, {"step": float("inf")}):
        path.write_bytes(sealed({**state, **wrong}))
        assert_same(read_newest(tmp_path), checkpoint(4))
        assert "damaged checkpoint" in capsys.readouterr().err


def test_without_validation_the_newest_is_the_best(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    save_checkpoint(tmp_path, checkpoint(8))
    assert read_best(tmp_path).progress.step == 8


@pytest.mark.parametrize("tree", ["model", "optimizer", "teacher"])
def test_values_that_are_not_finite_are_never_written(tmp_path: Path, tree: str) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    broken = checkpoint(8)
    trees = {**broken.trees, "teacher": broken.weights}
    name, array = next(iter(trees[tree].items()))
    broken = replace(broken, trees={**trees, tree: {**trees[tree], name: np.full_like(array, np.nan)}})
    with pytest.raises(AnatoBenchError, match=f"{name} is not finite"):
        save_checkpoint(tmp_path, broken)
    assert folders(tmp_path) == ["step_00000004"]


def test_a_write_cut_off_leaves_no_checkpoint_and_is_cleaned_up(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    half = tmp_path / "checkpoints" / ".step_00000008.0badc0de.tmp"
    shutil.copytree(tmp_path / "checkpoints" / "step_00000004", half)
    assert_same(read_newest(tmp_path), checkpoint(4))
    save_checkpoint(tmp_path, checkpoint(8))
    assert folders(tmp_path) == ["step_00000004", "step_00000008"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint(4))

    def refuse(folder: Path, trees: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "write_trees", refuse)
    with pytest.raises(AnatoBenchError, match=r"step_00000008: cannot be written \(No space left"):
        save_checkpoint(tmp_path, checkpoint(8))
    assert folders(tmp_path) == ["step_00000004"]


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4, Best(4, "auc_macro", 0.9)))
    folder = tmp_path / "checkpoints"
    for half in (".step_00000008.tmp", ".step_00000002.0badc0de.tmp"):
        shutil.copytree(folder / "step_00000004", folder / half)
    (folder / ".best.json.0badc0de.tmp").touch()
    (tmp_path / ".config.json.0badc0de.tmp").touch()
    (tmp_path / ".evaluation_test.json.0badc0de.tmp").touch()  # another process may be writing it now
    clear_leftovers(tmp_path, ("config.json",))
    assert folders(tmp_path) == ["best.json", "step_00000004"]
    assert [path.name for path in tmp_path.glob(".*")] == [".evaluation_test.json.0badc0de.tmp"]


def test_a_checkpoint_on_its_way_out_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of removing one: what is left of it has no name of a checkpoint."""

    class Killed(BaseException):
        pass

    def remove_a_file_and_die(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (path / "state.json").unlink()
            raise Killed

    for step in (4, 8):
        save_checkpoint(tmp_path, checkpoint(step))
    monkeypatch.setattr(shutil, "rmtree", remove_a_file_and_die)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, checkpoint(12))
    monkeypatch.undo()
    assert [name for name in folders(tmp_path) if not name.startswith(".")] == ["step_00000008", "step_00000012"]
    assert_same(read_newest(tmp_path), checkpoint(12))
    clear_leftovers(tmp_path)
    assert folders(tmp_path) == ["step_00000008", "step_00000012"]


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "file"])
@pytest.mark.parametrize("name", ["step_00000002", "step_00000008", ".step_00000008.tmp"])
def test_what_only_has_a_checkpoints_name_goes_and_stops_no_saving(tmp_path: Path, kind: str, name: str) -> None:
    precious, run = tmp_path / "elsewhere" / "precious", tmp_path / "run"
    precious.parent.mkdir()
    precious.touch()
    for step in (4, 6):
        save_checkpoint(run, checkpoint(step))
    place = run / "checkpoints" / name
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(precious.parent if kind == "link" else tmp_path / "nowhere")
    clear_leftovers(run)
    save_checkpoint(run, checkpoint(8))
    assert folders(run) == ["step_00000006", "step_00000008"]
    assert_same(read_newest(run), checkpoint(8))
    assert precious.exists()


def test_a_pipe_for_a_state_is_damage_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (4, 8):
        save_checkpoint(tmp_path, checkpoint(step))
    state = tmp_path / "checkpoints" / "step_00000008" / "state.json"
    state.unlink()
    os.mkfifo(state)
    read_bytes = Path.read_bytes

    def read_but_the_pipe(path: Path) -> bytes:
        assert path != state, "would wait for ever"
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_but_the_pipe)
    assert_same(read_newest(tmp_path), checkpoint(4))
