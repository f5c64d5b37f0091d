"""Files of weights: found, downloaded, checked, and refused when they are not what they should be."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from kinetics_files import pth_bytes, write_pth
from safetensors.numpy import save_file

from anatobench.backbones.published_weights import PYTORCH, PublishedWeights
from anatobench.errors import AnatoBenchError
from anatobench.training.pretrained import weights_file
from anatobench.training.pretrained.weights_file import find_or_download, read_weights_file, search_folders

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.num_batches_tracked": torch.tensor(5)}


def assert_is_state(path: Path) -> None:
    arrays = read_weights_file(path).arrays
    assert arrays.keys() == STATE.keys()
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


@pytest.mark.parametrize("older_form", [False, True])
def test_both_forms_of_pth_are_read(tmp_path: Path, older_form: bool) -> None:
    assert_is_state(write_pth(tmp_path, "net", pth_bytes(STATE, older_form)))


def test_safetensors_are_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({name: tensor.numpy() for name, tensor in STATE.items()}, tmp_path / "net-01234567.safetensors")
    without_torch(monkeypatch)
    assert_is_state(tmp_path / "net-01234567.safetensors")


def test_without_torch_a_pth_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pth(tmp_path, "net", pth_bytes(STATE))
    without_torch(monkeypatch)
    with pytest.raises(AnatoBenchError, match=r"net-\w+\.pth: reading \.pth needs .* torch: .*or convert"):
        read_weights_file(path)


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch_ref.pretrained_file", raising=False)


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_download_is_known_by_its_name(tmp_path: Path, damage: str) -> None:
    path = write_pth(tmp_path, "net", content := pth_bytes(STATE))
    path.write_bytes(content[:-100] if damage == "cut" else content[:50] + b"?" + content[51:])
    with pytest.raises(AnatoBenchError, match=r"net-\w+\.pth: cut short or damaged: its SHA-256 .*fetch it again"):
        read_weights_file(path)


@pytest.mark.parametrize("older_form", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_file_without_a_hash_in_its_name(tmp_path: Path, older_form: bool, keep: float) -> None:
    content = pth_bytes(STATE, older_form)
    (tmp_path / "mine.pth").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(AnatoBenchError, match=r"mine\.pth: cannot be read as weights: damaged") as caught:
        read_weights_file(tmp_path / "mine.pth")
    assert "\n" not in str(caught.value)


def test_cut_safetensors(tmp_path: Path) -> None:
    save_file({"a": np.ones(9)}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    for length in (0, 5, len(content) - 1):
        (tmp_path / "a.safetensors").write_bytes(content[:length])
        with pytest.raises(AnatoBenchError, match=r"a\.safetensors: cannot be read as weights"):
            read_weights_file(tmp_path / "a.safetensors")


class Touch:
    """Unpickles by calling Path.touch: what a malicious file would do with worse in mind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["zip", "older", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path, form: str) -> None:
    state = {**STATE, "layer.bias": Touch(tmp_path / "touched")}
    content = pickle.dumps(state, protocol=2) if form == "bare pickle" else pth_bytes(state, form == "older")
    path = write_pth(tmp_path, "net", content)
    with pytest.raises(AnatoBenchError, match="holds more than tensors, which is never run") as caught:
        read_weights_file(path)
    assert not (tmp_path / "touched").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "is not a dict of tensors by name"),
        ({"state_dict": STATE}, "is not a dict of tensors by name"),
        ({3: torch.ones(1)}, "is not a dict of tensors by name"),
        ({"a": torch.ones(2, dtype=torch.bfloat16)}, "holds tensors of an unusual kind"),
    ],
)
def test_anything_but_named_tensors_is_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "net.pth").write_bytes(pth_bytes(content))
    with pytest.raises(AnatoBenchError, match=rf"net\.pth: {message}"):
        read_weights_file(tmp_path / "net.pth")


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 20))
    (tmp_path / "bomb.pth").write_bytes(packed.getvalue())
    monkeypatch.setattr(weights_file, "MAX_BYTES", 100_000)
    with pytest.raises(AnatoBenchError, match=r"bomb\.pth: would unpack to 1048576 bytes, over the limit of 100000"):
        read_weights_file(tmp_path / "bomb.pth")
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(100_001)
    with pytest.raises(AnatoBenchError, match=r"large\.pth: 100001 bytes, over the limit"):
        read_weights_file(tmp_path / "large.pth")


@pytest.mark.parametrize(("name", "message"), [("none.pth", "no such file"), ("weights.onnx", "give a .pth or")])
def test_no_file_and_another_kind_of_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(AnatoBenchError, match=rf"{name}: {message}"):
        read_weights_file(tmp_path / name)


# Where the published files are looked for, and what a download may do.

CONTENT = pth_bytes(STATE)


@pytest.fixture
def published(tmp_path: Path) -> PublishedWeights:
    return PublishedWeights(PYTORCH, write_pth(tmp_path, "net", CONTENT).name, {})


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """`$ANATOBENCH_PRETRAINED` and PyTorch's cache, neither of which exists yet; no network."""
    own, home = tmp_path / "own", tmp_path / "torch"
    monkeypatch.setenv("ANATOBENCH_PRETRAINED", str(own))
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(weights_file, "urlopen", no_network)
    return own, home / "hub" / "checkpoints"


def no_network(address: str, timeout: float) -> None:
    raise URLError("Name or service not known")


class Response(io.BytesIO):
    """What urlopen returns; `length` is what the server announced."""

    def __init__(self, content: bytes, length: int | None) -> None:
        super().__init__(content)
        self.length = length


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes, length: int | None = None) -> list[str]:
    """Let every address answer with that content; the addresses asked for."""
    asked: list[str] = []

    def answer(address: str, timeout: float) -> Response:
        assert 0 < timeout <= 30
        asked.append(address)
        return Response(content, length)

    monkeypatch.setattr(weights_file, "urlopen", answer)
    return asked


def test_the_search_follows_torch_hubs_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ANATOBENCH_PRETRAINED", "TORCH_HOME", "XDG_CACHE_HOME", "TORCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = [tmp_path / ".cache" / "torch" / "hub" / "checkpoints"]
    for name, value in {"": "", "XDG_CACHE_HOME": "/cache", "TORCH_HOME": "~/torch"}.items():
        if name:
            monkeypatch.setenv(name, value)
            expected = [Path(torch.hub.get_dir()) / "checkpoints"]
        assert search_folders() == expected == [Path(torch.hub.get_dir()) / "checkpoints"]
    monkeypatch.setenv("ANATOBENCH_PRETRAINED", "/weights")
    assert search_folders() == [Path("/weights"), tmp_path / "torch" / "hub" / "checkpoints"]


def test_the_own_folder_comes_before_pytorchs_cache_and_safetensors_before_pth(
    published: PublishedWeights, folders: tuple[Path, Path]
) -> None:
    own, cache = folders
    converted = published.file.replace(".pth", ".safetensors")
    for folder, name in ((cache, published.file), (own, published.file), (own, converted)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        assert find_or_download(published) == folder / name


def test_a_download_is_checked_and_kept(
    published: PublishedWeights, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, CONTENT, len(CONTENT))
    path = find_or_download(published)
    assert path == folders[0] / published.file
    assert_is_state(path)
    assert find_or_download(published) == path
    assert asked == [f"https://download.pytorch.org/models/{published.file}"]


def test_without_an_own_folder_it_goes_where_pytorch_finds_it(
    published: PublishedWeights, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANATOBENCH_PRETRAINED")
    serve(monkeypatch, CONTENT)
    assert find_or_download(published) == folders[1] / published.file


def test_without_network_the_file_its_address_and_its_place_are_named(
    published: PublishedWeights, folders: tuple[Path, Path]
) -> None:
    with pytest.raises(AnatoBenchError) as caught:
        find_or_download(published)
    own, cache = folders
    assert str(caught.value) == (
        f"{published.file}: not in {own} or {cache}, and cannot be downloaded (<urlopen error Name or service not "
        f"known>): fetch https://download.pytorch.org/models/{published.file} where there is network and put it into "
        f"{own}, or name the file with --pretrained"
    )


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (CONTENT[:-9], len(CONTENT), rf"it ended after {len(CONTENT) - 9} of {len(CONTENT)} bytes"),
        (CONTENT[:-9], None, "the download is damaged: its SHA-256 begins with"),
        (b"<html>sign in</html>", None, "the download is damaged: its SHA-256 begins with"),
        (bytes(300_000), None, "more than 200000 bytes"),
    ],
)
def test_a_bad_download_leaves_nothing(
    published: PublishedWeights,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    length: int | None,
    message: str,
) -> None:
    monkeypatch.setattr(weights_file, "MAX_BYTES", 200_000)
    serve(monkeypatch, content, length)
    with pytest.raises(AnatoBenchError, match=message):
        find_or_download(published)
    assert not folders[0].exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(
    published: PublishedWeights, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, CONTENT)
    folders[0].write_text("a file in its place")
    with pytest.raises(AnatoBenchError, match=r"cannot be written \(.*\): set ANATOBENCH_PRETRAINED to a folder"):
        find_or_download(published)
