"""Every way in which a series may be encoded gives the HU that were written, or one sentence that names the way."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from scan_files import body_voxels, write_dicom_series

from anatobench.errors import CaseError
from anatobench.volumes.read import read_volume

BODY = np.maximum(body_voxels(), -1024)
Change = Callable[[FileDataset], None]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def series(folder: Path, change: Change, voxels: np.ndarray = BODY, **tags: object) -> Path:
    """Return a series of which every slice's data set was changed."""
    for path in write_dicom_series(folder, voxels, **tags).iterdir():
        dataset = pydicom.dcmread(path)
        change(dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return folder


def encapsulated(dataset: FileDataset, syntax: str, frame: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def jpeg_2000(bare: bool, signed: bool) -> Change:
    def change(dataset: FileDataset) -> None:
        words = dataset.pixel_array
        if signed:
            words = (words.astype(np.int32) - 1024).astype(np.uint16)
            dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
        buffer = io.BytesIO()
        Image.fromarray(words).save(buffer, "JPEG2000", irreversible=False, no_jp2=bare)
        encapsulated(dataset, uid.JPEG2000Lossless, buffer.getvalue())

    return change


def rewritten(syntax: str, order: str) -> Change:
    def change(dataset: FileDataset) -> None:
        dataset.PixelData = dataset.pixel_array.astype(f"{order}u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)

    return change


def rle(dataset: FileDataset) -> None:
    dataset.compress(uid.RLELossless)


def monochrome1(dataset: FileDataset) -> None:
    dataset.PixelData = (65535 - dataset.pixel_array.astype(np.int32)).astype("<u2").tobytes()
    dataset.PhotometricInterpretation = "MONOCHROME1"


def words_of_32_bits(dataset: FileDataset) -> None:
    words = dataset.pixel_array
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
    dataset.PixelData = words.astype("<u4").tobytes()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(jpeg_2000(False, False), id="JPEG 2000 in JP2 boxes"),
        pytest.param(jpeg_2000(True, False), id="JPEG 2000 codestream"),
        pytest.param(jpeg_2000(True, True), id="signed words in an unsigned JPEG 2000 codestream"),
        pytest.param(rewritten(uid.ExplicitVRBigEndian, ">"), id="big endian"),
        pytest.param(rewritten(uid.ImplicitVRLittleEndian, "<"), id="implicit"),
        pytest.param(rle, id="RLE"),
        pytest.param(monochrome1, id="MONOCHROME1"),
        pytest.param(words_of_32_bits, id="32 bits"),
    ],
)
def test_every_encoding_gives_the_hounsfield_values_that_were_written(tmp_path: Path, change: Change) -> None:
    volume = read_volume(series(tmp_path / "s", change))
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert volume.notes == ()


def words_of_8_bits(dataset: FileDataset) -> None:
    words = dataset.pixel_array >> 4
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.RescaleSlope = 8, 8, 7, 16
    dataset.PixelData = words.astype("u1").tobytes()


def baseline_jpeg(dataset: FileDataset) -> None:
    words_of_8_bits(dataset)
    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(dataset.PixelData, "u1").reshape(24, 24)).save(buffer, "JPEG", quality=100)
    encapsulated(dataset, uid.JPEGBaseline8Bit, buffer.getvalue())


@pytest.mark.parametrize(("change", "within"), [(words_of_8_bits, 16), (baseline_jpeg, 80)])
def test_eight_bits_give_what_they_can(tmp_path: Path, change: Change, within: float) -> None:
    assert np.abs(read_volume(series(tmp_path / "s", change)).voxels - BODY.astype(int)).max() <= within


def signed_words_of_32_bits(dataset: FileDataset) -> None:
    words_of_32_bits(dataset)
    words = np.frombuffer(dataset.PixelData, "<u4").astype(np.int64) - 1024
    dataset.PixelData, dataset.RescaleIntercept = words.astype("<i4").tobytes(), 0


@pytest.mark.parametrize("bits", [11, 13, 14, 32])
def test_signed_words_of_any_length_under_an_unsigned_tag_are_mended(tmp_path: Path, bits: int) -> None:
    def change(dataset: FileDataset) -> None:
        words = (dataset.pixel_array.astype(np.int32) - 1024) & ((1 << bits) - 1)
        dataset.BitsStored, dataset.HighBit, dataset.RescaleIntercept = bits, bits - 1, 0
        dataset.PixelData = words.astype("<u2").tobytes()

    volume = read_volume(series(tmp_path / "s", signed_words_of_32_bits if bits == 32 else change))
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert "signed" in volume.notes[0]


def without_syntax(dataset: FileDataset) -> None:
    jpeg_2000(True, False)(dataset)
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian


def noise_without_syntax(dataset: FileDataset) -> None:
    """Its fragment is longer than the pixels would be, so that its bytes could be taken for them."""
    frame = np.random.default_rng(0).bytes(4000)
    encapsulated(dataset, uid.ExplicitVRLittleEndian, frame)


def several_times(dataset: FileDataset) -> None:
    dataset.PixelData *= 2


def fewer_rows(dataset: FileDataset) -> None:
    dataset.Rows = 23


def half_the_bits(dataset: FileDataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7


def jpeg_2000_of(size: int) -> Change:
    def change(dataset: FileDataset) -> None:
        jpeg_2000(True, False)(dataset)
        frame = bytearray(next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
        frame[8:16] = size.to_bytes(4, "big") * 2
        encapsulated(dataset, uid.JPEG2000Lossless, bytes(frame))

    return change


def jpeg_of(size: int) -> Change:
    def change(dataset: FileDataset) -> None:
        baseline_jpeg(dataset)
        frame = bytearray(next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
        start = frame.index(b"\xff\xc0")
        frame[start + 5 : start + 9] = size.to_bytes(2, "big") * 2
        encapsulated(dataset, uid.JPEGBaseline8Bit, bytes(frame))

    return change


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (without_syntax, "its pixels are compressed, and its TransferSyntaxUID"),
        (noise_without_syntax, "its pixels are compressed, and its TransferSyntaxUID"),
        (several_times, "holds 2304 bytes of pixels, .* say 1152"),
        (fewer_rows, "holds 1152 bytes of pixels, .* say 1104"),
        (half_the_bits, "holds 1152 bytes of pixels, .* say 576"),
        (jpeg_2000_of(13_000), "frame is 13000 x 13000 pixels, its header says 24 x 24"),
        (jpeg_2000_of(30), "frame is 30 x 30 pixels"),
        (jpeg_of(13_000), "frame is 13000 x 13000 pixels, its header says 24 x 24"),
        (jpeg_of(23), "frame is 23 x 23 pixels"),
    ],
)
def test_pixels_that_are_not_what_the_header_says_are_refused_before_they_are_decoded(
    tmp_path: Path, change: Change, seen: str
) -> None:
    with pytest.raises(CaseError, match=rf"\.dcm: .*{seen}"):
        read_volume(series(tmp_path / "s", change))


def test_pixels_of_an_unknown_kind_are_one_sentence(tmp_path: Path) -> None:
    folder = write_dicom_series(tmp_path / "s", BODY)
    content = (folder / "3.dcm").read_bytes()
    (folder / "3.dcm").write_bytes(content.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00O\0", 1))
    with pytest.raises(CaseError, match=r"3\.dcm: .*PixelData|3\.dcm: .*damaged") as caught:
        read_volume(folder)
    assert caught.value.reason != "unreadable"


def test_zeros_behind_the_pixels_are_padding(tmp_path: Path) -> None:
    def change(dataset: FileDataset) -> None:
        dataset.PixelData += bytes(1000)

    np.testing.assert_array_equal(read_volume(series(tmp_path / "s", change)).voxels, BODY)


JPEG_LS = b"\xff\xd8\xff\xf7\x00\x0b\x10\x00\x18\x00\x18\x01\x01\x11\x00\xff\xda" + bytes(40) + b"\xff\xd9"
LOSSLESS_JPEG = JPEG_LS.replace(b"\xff\xf7", b"\xff\xc3")


@pytest.mark.parametrize(
    ("syntax", "frame", "named"),
    [
        (uid.JPEGLSLossless, JPEG_LS, "JPEG-LS Lossless"),
        (uid.JPEGLSNearLossless, JPEG_LS, "JPEG-LS Lossy"),
        (uid.JPEGLosslessSV1, LOSSLESS_JPEG, "JPEG Lossless"),
        (uid.HTJ2KLossless, JPEG_LS, "High-Throughput JPEG 2000"),
        (uid.JPEG2000Lossless, JPEG_LS, "JPEG-LS"),
        (uid.RLELossless, JPEG_LS, "JPEG-LS"),
        (uid.JPEGBaseline8Bit, LOSSLESS_JPEG, "16-bit lossless JPEG"),
    ],
)
def test_a_process_without_decoder_is_named(tmp_path: Path, syntax: str, frame: bytes, named: str) -> None:
    with pytest.raises(CaseError, match=f"no decoder .*{named}.*: decompress the series first") as caught:
        read_volume(series(tmp_path / "s", lambda dataset: encapsulated(dataset, syntax, frame)))
    assert caught.value.reason == "unsupported-pixels"


@pytest.mark.parametrize("written", [b"1.2.840.10008.1\\2.1", b"1.2.840.10008.1.x.1", b"1.2.840.10008,1.2.1"])
def test_a_transfer_syntax_that_is_none_is_one_sentence(tmp_path: Path, written: bytes) -> None:
    folder = write_dicom_series(tmp_path / "s", BODY)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1", written, 1))
    with pytest.raises(CaseError, match=r"its TransferSyntaxUID is|no decoder for 1\.2\.840"):
        read_volume(folder)


def test_damage_is_told_without_an_objects_address(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="pixel data is damaged") as caught:
        read_volume(series(tmp_path / "s", lambda d: encapsulated(d, uid.JPEG2000Lossless, b"no image" * 9)))
    assert " at 0x" not in str(caught.value)


def several_frames(compressed: bool) -> Change:
    def change(dataset: FileDataset) -> None:
        dataset.NumberOfFrames = 4
        dataset.PixelData *= 4
        if compressed:
            dataset.compress(uid.RLELossless)

    return change


def enhanced(kind: str, frames: int) -> Change:
    """Return all slices in one file, their places in nested sequences."""

    def change(dataset: FileDataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.UID(f"1.2.840.10008.5.1.4.1.1.2.{kind}")
        dataset.NumberOfFrames = frames
        dataset.PixelData *= frames
        places = []
        for number in range(frames):
            place, frame = Dataset(), Dataset()
            place.ImagePositionPatient = [-40, -50, 60 - 3 * number]
            frame.PlanePositionSequence = [place]
            places.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = places
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept"):
            delattr(dataset, tag)

    return change


@pytest.mark.parametrize(
    "change",
    [several_frames(False), several_frames(True), enhanced("1", 4), enhanced("1", 1), enhanced("2", 4)],
    ids=["plain", "RLE", "enhanced", "enhanced, one frame", "converted to enhanced"],
)
def test_several_slices_in_one_file_are_named(tmp_path: Path, change: Change) -> None:
    with pytest.raises(CaseError, match="convert it to NIfTI, or to one file per slice") as caught:
        read_volume(series(tmp_path / "s", change, BODY[:1]))
    assert caught.value.reason == "multi-frame"


def with_wrapped_corners(dataset: FileDataset) -> None:
    """Store padding of -2000 that an unsigned word of 12 bits cannot hold: 4096 more."""
    words = dataset.pixel_array.copy()
    h, w = (np.linspace(-1, 1, n) for n in words.shape)
    words[np.hypot(h[:, None], w[None]) > 1.1] = (-2000 + 1024) & 0x0FFF
    dataset.PixelData, dataset.BitsStored, dataset.HighBit = words.tobytes(), 12, 11


def test_wrapped_padding_is_mended_where_nothing_else_is_as_dense(tmp_path: Path) -> None:
    volume = read_volume(series(tmp_path / "s", with_wrapped_corners))
    padded = np.hypot(np.linspace(-1, 1, 24)[:, None], np.linspace(-1, 1, 24)[None]) > 1.1
    assert (volume.voxels[:, padded] == -2000).all()
    np.testing.assert_array_equal(volume.voxels[:, ~padded], BODY[:, ~padded])
    assert "signed" in volume.notes[0]


@pytest.mark.parametrize("slices", [slice(3, 9), slice(0, 2)])
def test_wrapped_padding_beside_dense_bone_is_refused(tmp_path: Path, slices: slice) -> None:
    voxels = BODY.copy()
    voxels[slices, 17:21, 10:14] = 1500
    with pytest.raises(CaseError, match="padding or bone was wrapped") as caught:
        read_volume(series(tmp_path / "s", with_wrapped_corners, voxels))
    assert caught.value.reason == "not-hounsfield"
