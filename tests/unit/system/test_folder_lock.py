"""Processes that would do the same cases never write a store at once; shards of one count do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from anatobench.errors import AnatoBenchError
from anatobench.system.folder_lock import shard_locked
from anatobench.training.run_folder import locked


@pytest.mark.parametrize(("first", "second"), [((0, 1), (0, 1)), ((1, 3), (1, 3)), ((0, 1), (1, 3)), ((0, 2), (1, 3))])
def test_shards_with_cases_in_common_are_refused(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int]
) -> None:
    for one, other in ((first, second), (second, first)):
        with (
            shard_locked(tmp_path, one),
            pytest.raises(AnatoBenchError, match="wait for it") as refusal,
            shard_locked(tmp_path, other),
        ):
            pass
        assert "\n" not in str(refusal.value)
        with shard_locked(tmp_path, other):
            pass
    assert list(tmp_path.iterdir()) == []


def test_shards_of_one_count_run_at_once(tmp_path: Path) -> None:
    with shard_locked(tmp_path, (0, 3)), shard_locked(tmp_path, (2, 3)), shard_locked(tmp_path, (1, 3)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_refused_process_takes_no_lock_away(tmp_path: Path) -> None:
    with shard_locked(tmp_path, (0, 1)):
        for _ in range(2):
            with pytest.raises(AnatoBenchError), shard_locked(tmp_path, (0, 1)):
                pass


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from anatobench.system.folder_lock import shard_locked\n"
        "with shard_locked(pathlib.Path(sys.argv[1]), (0, 1)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert list(tmp_path.iterdir())
    with shard_locked(tmp_path, (1, 2)):
        assert [path.name for path in tmp_path.iterdir()] == [".shard-1-of-2.lock"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, exists: bool) -> None:
    """It would empty, or make, a file of whoever trains where others may write."""
    target, root = tmp_path / "thesis.tex", tmp_path / "root"
    root.mkdir()
    if exists:
        target.write_text("years")
    locks: dict[str, Callable[[], AbstractContextManager[None]]] = {
        ".shard-0-of-1.lock": lambda: shard_locked(root, (0, 1)),
        ".lock": lambda: locked(root),
    }
    for lock, hold in locks.items():
        (root / lock).symlink_to(target)
        with pytest.raises(AnatoBenchError, match=r"lock: is a link.*delete it"), hold():
            pass
        (root / lock).unlink()
        with hold():
            pass
    assert target.exists() == exists
    assert not exists or target.read_text() == "years"


@pytest.mark.parametrize("lock", [".shard-0-of-1.lock", ".lock"])
def test_a_lock_that_is_a_pipe_is_named(tmp_path: Path, lock: str) -> None:
    os.mkfifo(tmp_path / lock)
    hold = locked(tmp_path) if lock == ".lock" else shard_locked(tmp_path, (0, 1))
    with pytest.raises(AnatoBenchError, match=r"lock: is no file.*delete it"), hold:
        pass
