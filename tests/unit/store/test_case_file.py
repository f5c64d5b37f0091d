"""The data file is plain safetensors, and whatever is wrong with one is an error, never a wrong crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anatobench.errors import AnatoBenchError
from anatobench.store.case_file import encode_case, read_crop
from anatobench.tasks import IGNORED_ORGAN

SIZE = (5, 7, 9)


@pytest.fixture
def voxels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(-1000, 1000, SIZE, dtype=np.int16), rng.integers(0, 7, SIZE, dtype=np.uint8)


def crop_of(path: Path, start: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    volume, organs = np.empty(size, np.int16), np.empty(size, np.uint8)
    read_crop(path, SIZE, start, volume, organs)
    return volume, organs


def test_safetensors_reads_what_was_encoded(tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray]) -> None:
    volume, organs = voxels
    (tmp_path / "case").write_bytes(encode_case(volume, organs))
    loaded = load_file(tmp_path / "case")
    assert set(loaded) == {"volume", "organs"}
    np.testing.assert_array_equal(loaded["volume"], volume)
    np.testing.assert_array_equal(loaded["organs"], organs)
    assert set(load_file_of(tmp_path, encode_case(volume, None))) == {"volume"}


def load_file_of(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    (folder / "other").write_bytes(content)
    return load_file(folder / "other")


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 3, 4), (1, 0, 4), (2, 0, 0)])
def test_a_crop_is_the_slice_of_the_whole(
    tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray], start: tuple[int, int, int]
) -> None:
    (tmp_path / "case").write_bytes(encode_case(*voxels))
    region = tuple(slice(s, s + c) for s, c in zip(start, (3, 4, 5), strict=True))
    for crop, whole in zip(crop_of(tmp_path / "case", start, (3, 4, 5)), voxels, strict=True):
        np.testing.assert_array_equal(crop, whole[region])


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 3, 4), (1, 2, 0), (3, 5, 8)])
@pytest.mark.parametrize("masked", [True, False])
def test_the_air_around_a_small_scan_is_not_kept(tmp_path: Path, place: tuple[int, int, int], masked: bool) -> None:
    """And every crop is still the slice of the whole: in the box, across its border, and beside it."""
    volume, organs = np.full(SIZE, -1000, np.int16), np.zeros(SIZE, np.uint8)
    box = tuple(slice(first, first + 2) for first in place)
    volume[box], organs[box] = np.arange(volume[box].size).reshape(volume[box].shape), 3
    (tmp_path / "case").write_bytes(encode_case(volume, organs if masked else None))
    assert load_file(tmp_path / "case")["volume"].shape == volume[box].shape
    wanted = (2, 3, 3)
    for start in np.ndindex(*(n - c + 1 for n, c in zip(SIZE, wanted, strict=True))):
        region = tuple(slice(s, s + c) for s, c in zip(start, wanted, strict=True))
        d, h, w = start
        found, labels = crop_of(tmp_path / "case", (d, h, w), wanted)
        np.testing.assert_array_equal(found, volume[region])
        np.testing.assert_array_equal(labels, organs[region] if masked else np.full(wanted, IGNORED_ORGAN))


def test_an_organ_in_the_air_is_kept(tmp_path: Path) -> None:
    volume, organs = np.full(SIZE, -1000, np.int16), np.zeros(SIZE, np.uint8)
    organs[4, 6, 8] = 1
    (tmp_path / "case").write_bytes(encode_case(volume, organs))
    np.testing.assert_array_equal(crop_of(tmp_path / "case", (0, 0, 0), SIZE)[1], organs)


def test_a_scan_of_air_alone_is_a_voxel(tmp_path: Path) -> None:
    content = encode_case(np.full(SIZE, -1000, np.int16), None)
    (tmp_path / "case").write_bytes(content)
    assert len(content) < 200
    assert (crop_of(tmp_path / "case", (1, 1, 1), (4, 6, 8))[0] == -1000).all()


@pytest.mark.parametrize(
    "start", ["4,0,0", "-1,0,0", "0,0", "0,0,0,0", "a,b,c", "", "1e3,0,0"], ids=lambda start: start or "nothing"
)
def test_a_box_that_leaves_the_grid_is_an_error(tmp_path: Path, start: str) -> None:
    save_file({"volume": np.zeros((2, 3, 4), np.int16)}, tmp_path / "case", {"box_start": start})
    with pytest.raises(AnatoBenchError, match=r"leaves the grid|not that of a prepared case"):
        crop_of(tmp_path / "case", (0, 0, 0), SIZE)


def test_organs_are_ignored_throughout_without_a_mask(tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray]) -> None:
    (tmp_path / "case").write_bytes(encode_case(voxels[0], None))
    assert (crop_of(tmp_path / "case", (0, 0, 0), SIZE)[1] == IGNORED_ORGAN).all()


@pytest.mark.parametrize("start", [(3, 0, 0), (0, 0, 5), (-1, 0, 0)])
def test_a_crop_outside_the_volume_is_refused(
    tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray], start: tuple[int, int, int]
) -> None:
    (tmp_path / "case").write_bytes(encode_case(*voxels))
    with pytest.raises(AnatoBenchError, match="leaves the volume"):
        crop_of(tmp_path / "case", start, (3, 4, 5))


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_file_cut_short_is_an_error(tmp_path: Path, voxels: tuple[np.ndarray, np.ndarray], kept: int) -> None:
    (tmp_path / "case").write_bytes(encode_case(*voxels)[:kept])
    with pytest.raises(AnatoBenchError, match="cut short"):
        crop_of(tmp_path / "case", (0, 0, 0), SIZE)


@pytest.mark.parametrize(
    "tensors",
    [
        {"volume": np.zeros((5, 9, 7), np.int16)},
        {"volume": np.zeros(SIZE, np.float32)},
        {"organs": np.zeros(SIZE, np.uint8)},
        {"volume": np.zeros(SIZE, np.int16), "labels": np.zeros(SIZE, np.uint8)},
        {"volume": np.zeros((2, 3, 4), np.int16)},
    ],
    ids=["other-shape", "other-type", "no-volume", "unknown-tensor", "a-box-without-a-place"],
)
def test_another_safetensors_file_is_an_error(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    save_file(tensors, tmp_path / "case")
    with pytest.raises(AnatoBenchError):
        crop_of(tmp_path / "case", (0, 0, 0), SIZE)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"volume": 3}',
        b'{"volume":{"dtype":"I16","shape":[5,7,9],"data_offsets":[-8,622]}}',
        b'{"volume":{"dtype":"I16","shape":[5,7,9],"data_offsets":[0,1e99]}}',
        b'{"volume":{"dtype":"I16","shape":[5,7,9],"data_offsets":["a","b"]}}',
        b'{"__metadata__":{"box_start":"0,0,0"}}',
        b'{"__metadata__":[],"volume":{"dtype":"I16","shape":[5,7,9],"data_offsets":[0,630]}}',
        b'{"__metadata__":{"box_start":"0,0,0"},"volume":{"dtype":"I16","shape":[2,2],"data_offsets":[0,8]}}',
        b"\xff\xfe",
    ],
)
def test_a_hostile_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "case").write_bytes(len(header).to_bytes(8, "little") + header + bytes(10_000))
    with pytest.raises(AnatoBenchError):
        crop_of(tmp_path / "case", (0, 0, 0), SIZE)


def test_a_header_that_claims_to_be_huge_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "case").write_bytes((2**63).to_bytes(8, "little") + bytes(10_000))
    with pytest.raises(AnatoBenchError):
        crop_of(tmp_path / "case", (0, 0, 0), SIZE)
