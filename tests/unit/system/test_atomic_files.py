"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from anatobench.system.atomic_files import write_atomically


def test_a_disk_that_refuses_cleaning_up_is_reported_by_the_files_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only disk refuses even to remove what is not there."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    taken = tmp_path / "page.html"
    taken.mkdir()
    with pytest.raises(IsADirectoryError) as refusal:
        write_atomically(taken, b"content")
    assert refusal.value.filename == str(taken)
