"""What a small file can make of itself: memory and time stay within what is stated, whatever it claims."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scan_files import AFFINE, body_voxels, turned, write_dicom_series, write_nifti_file

from anatobench.datasets.table import MEMORY_MULTIPLE, read_table
from anatobench.errors import CaseError
from anatobench.system.json_text import parse_json
from anatobench.volumes.dicom_tags import MAX_INFLATED_BYTES
from anatobench.volumes.label_names import parse_label_names
from anatobench.volumes.read import read_mask, read_volume


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def deflate(path: Path, more: bytes = b"") -> None:
    """Turn an explicit little-endian file into a deflated one, with something behind its tags."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content[start:] + more) + packer.flush()
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    head = path.read_bytes()
    path.write_bytes(head[: 144 + int.from_bytes(head[140:144], "little")] + packed)


def test_a_deflated_series_is_read(tmp_path: Path) -> None:
    body = np.maximum(body_voxels(), -1024)
    write_dicom_series(tmp_path / "s", body)
    for path in (tmp_path / "s").iterdir():
        deflate(path)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, body)


@pytest.mark.slow
def test_a_deflated_file_unpacks_to_a_bounded_size(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "s", np.maximum(body_voxels(), -1024))
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (256 << 20).to_bytes(4, "little") + bytes(256 << 20)
    deflate(tmp_path / "s" / "3.dcm", padding)
    assert (tmp_path / "s" / "3.dcm").stat().st_size < 1 << 20

    def read() -> None:
        with pytest.raises(CaseError, match=r"3\.dcm: unpacks to more than 48 MiB"):
            read_volume(tmp_path / "s")

    assert peak_bytes(read) < 4 * MAX_INFLATED_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("row", ["a,\n", "ab,1\n", "x" * 40 + ",1\n", "a" + "," * 500 + "\n"])
def test_a_table_takes_a_stated_multiple_of_its_size(tmp_path: Path, row: str) -> None:
    path = tmp_path / "t.csv"
    columns = row.count(",") + 1
    path.write_text(",".join(f"c{n}" for n in range(columns)) + "\n" + row * (200_000 // len(row)))
    assert peak_bytes(lambda: read_table(path, ("c0",), "")) < MEMORY_MULTIPLE * path.stat().st_size


@pytest.mark.slow
def test_a_label_table_in_many_pieces_is_joined_once() -> None:
    """Adding each piece to what there is would copy three terabytes here; the test would not come to its end."""
    body = b'<CaretExtension><Label Key="1">' + b"<b/>ab" * 1_700_000 + b"</Label></CaretExtension>"
    assert parse_label_names(body) == {1: "ab" * 1_700_000}


def test_a_label_table_in_an_unknown_encoding_has_no_names() -> None:
    assert parse_label_names(b'<?xml version="1.0" encoding="klingon"?><CaretExtension/>') is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_a_scan_takes_a_stated_multiple_of_its_voxels(tmp_path: Path, dtype: type) -> None:
    """The stored words and int16 beside them, and what one slice needs."""
    body = body_voxels((64, 96, 96))
    path = write_nifti_file(tmp_path / "s.nii", *turned(body.astype(dtype), AFFINE, "RAS"))
    limit = body.size * (np.dtype(dtype).itemsize + 2) * 1.2 + (8 << 20)
    assert peak_bytes(lambda: read_volume(path)) < limit


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_a_mask_takes_a_stated_multiple_of_its_voxels(tmp_path: Path, dtype: type) -> None:
    labels: np.ndarray = np.zeros((64, 96, 96), dtype)
    labels[20:40, 30:60, 30:60] = 5
    path = write_nifti_file(tmp_path / "m.nii", *turned(labels, AFFINE, "RAS"))
    limit = labels.size * (np.dtype(dtype).itemsize + 3) * 1.2 + (8 << 20)
    assert peak_bytes(lambda: read_mask(path)) < limit


def test_what_a_compressed_scan_has_behind_its_voxels_is_not_unpacked(tmp_path: Path) -> None:
    body = np.maximum(body_voxels(), -1024)
    path = write_nifti_file(tmp_path / "s.nii", *turned(body, AFFINE, "RAS"))
    packed = tmp_path / "s.nii.gz"
    with gzip.open(packed, "wb", 1) as file:
        file.write(path.read_bytes())
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert packed.stat().st_size < 2 << 20
    found = []
    assert peak_bytes(lambda: found.append(read_volume(packed).voxels)) < 16 << 20
    np.testing.assert_array_equal(found[0], body)


def test_a_compressed_scan_cannot_claim_more_than_it_unpacks_to(tmp_path: Path) -> None:
    """512 MB of int16 from a file of 80 kB, which unpacks to 80 MB at most."""
    path = write_nifti_file(
        tmp_path / "s.nii", np.zeros((4, 4, 4), np.int16), AFFINE, dim=[3, 512, 1024, 512, 1, 1, 1, 1]
    )
    with gzip.open(tmp_path / "s.nii.gz", "wb", 1) as file:
        file.write(path.read_bytes())
        for _ in range(16):
            file.write(bytes(1 << 20))

    def read() -> None:
        with pytest.raises(CaseError, match="more than it can hold"):
            read_volume(tmp_path / "s.nii.gz")

    assert peak_bytes(read) < 16 << 20


def test_json_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        parse_json("[" * 200_000)
