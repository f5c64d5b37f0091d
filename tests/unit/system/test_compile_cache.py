"""The folder of compiled programs."""

from pathlib import Path

import pytest

from anatobench.system.compile_cache import VARIABLE, compile_cache


def test_it_can_be_named_and_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    assert compile_cache("jax") == tmp_path / "cache" / "jax"
    assert (tmp_path / "cache" / "jax").is_dir()
    monkeypatch.setenv(VARIABLE, "off")
    assert compile_cache("jax") is None


def test_by_default_it_lies_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache("torch") == tmp_path / ".cache" / "anatobench" / "compiled" / "torch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compile_cache("torch") == tmp_path / "xdg" / "anatobench" / "compiled" / "torch"


def test_a_folder_that_cannot_be_written_is_no_cache_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert compile_cache("torch") is None
