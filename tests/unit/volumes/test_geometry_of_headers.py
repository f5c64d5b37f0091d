"""Headers that round, tilt, contradict themselves or leave a slice out: the right place, or a refusal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from scan_files import AFFINE, body_voxels, turned, write_dicom_series, write_dicom_slice, write_nifti_file

from anatobench.errors import CaseError
from anatobench.volumes.nifti import read_nifti_affine, write_nifti
from anatobench.volumes.read import read_volume

BODY = np.maximum(body_voxels(), -1024)


def series_at(folder: Path, heights: Sequence[float], tags: Sequence[dict[str, Any]] | None = None) -> Path:
    folder.mkdir()
    voxels = np.maximum(body_voxels((len(heights), 24, 24)), -1024)
    for number, (plane, height) in enumerate(zip(voxels, heights, strict=True)):
        stored = (plane.astype(np.int32) + 1024).astype(np.uint16)
        write_dicom_slice(folder / f"{number:03}.dcm", stored, (-40, -50, height), **(tags[number] if tags else {}))
    return folder


@pytest.mark.parametrize(("distance", "decimals"), [(0.625, 1), (1.25, 1), (0.75, 1), (2.5, 0), (0.3125, 2), (0.7, 3)])
@pytest.mark.parametrize("start", [0.0, -1203.37])
def test_rounded_positions_give_the_true_distance(tmp_path: Path, distance: float, decimals: int, start: float) -> None:
    heights = [round(start + distance * number, decimals) for number in range(60)]
    found = read_volume(series_at(tmp_path / "s", heights)).grid.spacing[0]
    assert found == pytest.approx((heights[-1] - heights[0]) / 59, abs=1e-9)
    assert found == pytest.approx(distance, abs=10.0**-decimals / 59 + 1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 3])
@pytest.mark.parametrize("missing", [1, 20, 38])
def test_a_missing_slice_is_no_rounding(tmp_path: Path, decimals: int, missing: int) -> None:
    heights = [round(2.5 * number, decimals) for number in range(40) if number != missing]
    with pytest.raises(CaseError) as caught:
        read_volume(series_at(tmp_path / "s", heights))
    assert caught.value.reason == "missing-slices"


def test_two_distances_in_one_series_are_refused(tmp_path: Path) -> None:
    heights = [3.0 * n for n in range(20)] + [57.0 + 3.4 * n for n in range(1, 20)]
    with pytest.raises(CaseError, match="even distances"):
        read_volume(series_at(tmp_path / "s", heights))


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "ConvolutionKernel", "KVP"])
def test_two_acquisitions_between_each_other_are_refused(tmp_path: Path, tag: str) -> None:
    values = {"AcquisitionNumber": (1, 2), "ConvolutionKernel": ("B30f", "B70f"), "KVP": (80, 140)}[tag]
    tags = [{tag: values[number % 2]} for number in range(12)]
    with pytest.raises(CaseError, match=f"{tag} .* lie between each other") as caught:
        read_volume(series_at(tmp_path / "s", [1.5 * number for number in range(12)], tags))
    assert caught.value.reason == "several-acquisitions"


@pytest.mark.parametrize(
    "tag",
    [
        "AcquisitionTime",
        "ContrastBolusAgent",
        "SliceThickness",
        "TriggerTime",
        "SeriesDescription",
        "ProtocolName",
        "FilterType",
        "PatientName",
        "PatientPosition",
        "AcquisitionDate",
        "StudyID",
    ],
)
def test_two_scans_that_alternate_are_refused(tmp_path: Path, tag: str) -> None:
    values = {"AcquisitionTime": ("101010", "101055"), "ContrastBolusAgent": ("", "iodine"), "SliceThickness": (1, 5),
              "TriggerTime": (1, 5), "AcquisitionDate": ("20200101", "20200202")}.get(tag, ("ONE", "TWO"))  # fmt: skip
    heights = [1.5 * number for number in range(12)]
    with pytest.raises(CaseError, match=f"{tag} .* lie between each other"):
        read_volume(series_at(tmp_path / "s", heights, [{tag: values[number % 2]} for number in range(12)]))
    returning = [{tag: values[number in (3, 4, 8)]} for number in range(12)]
    assert read_volume(series_at(tmp_path / "now and then", heights, returning)).notes == ()


@pytest.mark.parametrize("first", [1, 7])
def test_two_runs_of_numbers_between_each_other_are_refused(tmp_path: Path, first: int) -> None:
    tags = [{"InstanceNumber": number // 2 + (first if number % 2 else 1)} for number in range(12)]
    with pytest.raises(CaseError, match="InstanceNumber two runs") as caught:
        read_volume(series_at(tmp_path / "s", [1.5 * number for number in range(12)], tags))
    assert caught.value.reason == "several-acquisitions"


@pytest.mark.parametrize("numbers", ["backwards", "two exchanged", "none", "all 1", "shuffled"])
def test_other_numbers_say_nothing(tmp_path: Path, numbers: str) -> None:
    order = {"backwards": list(range(12, 0, -1)), "two exchanged": [1, 2, 4, 3, *range(5, 13)], "all 1": [1] * 12,
             "none": [None] * 12, "shuffled": [5, 2, 9, 1, 12, 3, 11, 4, 8, 6, 10, 7]}[numbers]  # fmt: skip
    tags = [{"InstanceNumber": number} for number in order]
    assert read_volume(series_at(tmp_path / "s", [1.5 * number for number in range(12)], tags)).notes == ()


@pytest.mark.parametrize("tag", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_of_two_people_are_never_one_scan(tmp_path: Path, tag: str) -> None:
    heights = [3.0 * number for number in range(12)]
    tags = [{tag: f"1.2.{1 + number // 6}"} for number in range(12)]
    with pytest.raises(CaseError, match=f"2 values of {tag}"):
        read_volume(series_at(tmp_path / "s", heights, tags))
    each = [{tag: f"1.2.{1 + number}"} for number in range(12)]  # by an anonymiser
    assert read_volume(series_at(tmp_path / "each", heights, each)).notes == ()


def test_two_acquisitions_one_after_the_other_are_named(tmp_path: Path) -> None:
    tags = [{"AcquisitionNumber": 1 + number // 6} for number in range(12)]
    volume = read_volume(series_at(tmp_path / "s", [3.0 * number for number in range(12)], tags))
    assert "2 values of AcquisitionNumber" in volume.notes[0]


def test_a_number_per_slice_is_one_acquisition(tmp_path: Path) -> None:
    tags = [{"AcquisitionNumber": number} for number in range(12)]
    assert read_volume(series_at(tmp_path / "s", [3.0 * number for number in range(12)], tags)).notes == ()


def tilted(degrees: float) -> np.ndarray:
    """AFFINE with slices whose planes are tilted while the table moves along z."""
    affine = AFFINE.copy()
    angle = np.deg2rad(degrees)
    affine[:3, 1] = -2 * np.array([0, np.cos(angle), np.sin(angle)])
    return affine


def test_a_quaternion_is_written_only_where_it_can_say_it_all(tmp_path: Path) -> None:
    for name, affine, codes in (("straight", AFFINE, (1, 1)), ("tilted", tilted(18.5), (0, 1))):
        write_nifti(tmp_path / f"{name}.nii.gz", BODY, affine)
        image = nibabel.Nifti1Image.from_filename(tmp_path / f"{name}.nii.gz")
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == codes
        np.testing.assert_allclose(image.affine[:, [2, 1, 0, 3]], affine, atol=1e-4)
        np.testing.assert_allclose(read_volume(tmp_path / f"{name}.nii.gz").affine, affine, atol=1e-4)


def placed_twice(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int] = (1, 1)) -> Path:
    array, _ = turned(BODY, AFFINE, "RAS")
    image = nibabel.Nifti1Image(array, sform)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("change", ["slice step", "origin", "direction"])
def test_transforms_that_disagree_are_refused(tmp_path: Path, change: str) -> None:
    _, sform = turned(BODY, AFFINE, "RAS")
    qform = sform.copy()
    if change == "slice step":
        qform[:3, 2] *= 4 / 3
    elif change == "origin":
        qform[2, 3] += 30
    else:
        qform[:3, 0] *= -1
    path = placed_twice(tmp_path / "s.nii.gz", sform, qform)
    with pytest.raises(CaseError, match="mm apart") as caught:
        read_volume(path)
    assert caught.value.reason == "sform-contradicts-qform"
    read_volume(placed_twice(tmp_path / "one.nii.gz", sform, qform, (1, 0)))


def test_rounding_of_the_quaternion_is_no_disagreement(tmp_path: Path) -> None:
    angle = np.deg2rad(12.3)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.7, 1.25])
    affine[:3, 3] = (-180.123, -200.456, -1203.7)
    assert read_volume(placed_twice(tmp_path / "s.nii.gz", affine, affine)).notes == ()


def test_a_pixdim_that_contradicts_the_sform_is_named(tmp_path: Path) -> None:
    array, affine = turned(BODY, AFFINE, "RAS")
    path = write_nifti_file(tmp_path / "s.nii", array, affine, qform_code=0, pixdim=[1, 1.5, 2, 5, 0, 0, 0, 0])
    volume = read_volume(path)
    np.testing.assert_allclose(volume.grid.spacing, (3, 2, 1.5), atol=1e-5)
    assert "pixdim says 1.5 x 2 x 5 mm" in volume.notes[0]


@pytest.mark.parametrize(("unit", "scale"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0), (1 + 8, 1000.0)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_units_of_length_are_heeded(tmp_path: Path, unit: int, scale: float, form: str) -> None:
    array, affine = turned(BODY, AFFINE, "RAS")
    scaled = affine.copy()
    scaled[:3] /= scale
    codes = {"sform_code": int(form == "sform"), "qform_code": int(form == "qform")}
    image = nibabel.Nifti1Image(array, scaled)
    image.set_qform(scaled, 1)
    path = write_nifti_file(
        tmp_path / "s.nii", array, scaled, xyzt_units=unit, **codes,
        **{name: image.header[name] for name in ("quatern_b", "quatern_c", "quatern_d", "pixdim",
                                                 "qoffset_x", "qoffset_y", "qoffset_z")},
    )  # fmt: skip
    np.testing.assert_allclose(read_volume(path).affine, AFFINE, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(read_nifti_affine(path)[:3, :3], affine[:3, [2, 1, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", [1, 3])
def test_a_unit_that_makes_impossible_voxels_is_not_believed(tmp_path: Path, unit: int) -> None:
    array, affine = turned(BODY, AFFINE, "RAS")
    volume = read_volume(write_nifti_file(tmp_path / "s.nii", array, affine, xyzt_units=unit))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert "millimetres" in volume.notes[0]


def with_nan(where: str) -> np.ndarray:
    array: np.ndarray = BODY.astype(np.float64)
    if where == "slices":
        array[-2:] = np.nan
    elif where == "circle":
        h, w = (np.linspace(-1, 1, n) for n in BODY.shape[1:])
        array[:, np.hypot(h[:, None], w[None]) > 1.05] = np.nan
    elif where == "inside":
        array[5, 12, 12] = np.nan
    else:
        array[:, :2] = np.nan
        array[5, 12, 12] = np.nan
    return array


@pytest.mark.parametrize("where", ["slices", "circle"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (2.0, -1024.0)])
def test_nan_outside_the_view_is_air(tmp_path: Path, where: str, scale: tuple[float, float]) -> None:
    stored = (with_nan(where) - scale[1]) / scale[0]
    array, affine = turned(stored, AFFINE, "RAS")
    path = write_nifti_file(tmp_path / "s.nii.gz", array, affine, scl_slope=scale[0], scl_inter=scale[1])
    volume = read_volume(path)
    expected = np.where(np.isnan(with_nan(where)), -1000, BODY)
    np.testing.assert_array_equal(volume.voxels, expected)
    assert "NaN: made air" in volume.notes[0]


@pytest.mark.parametrize("where", ["inside", "both"])
def test_nan_inside_the_view_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(CaseError, match="NaN") as caught:
        read_volume(write_nifti_file(tmp_path / "s.nii.gz", *turned(with_nan(where), AFFINE, "RAS")))
    assert caught.value.reason == "nan"


def padded_series(folder: Path, padding: int, **tags: object) -> np.ndarray:
    """Return a series with a stored value around a circle; the voxels without it."""
    folder.mkdir()
    h, w = (np.linspace(-1, 1, n) for n in BODY.shape[1:])
    outside = np.hypot(h[:, None], w[None]) > 1
    for number, plane in enumerate(BODY):
        stored = np.where(outside, padding, plane.astype(np.int32) + 1024).astype(np.uint16)
        write_dicom_slice(folder / f"{number}.dcm", stored, (-40, -50, 60 - 3 * number), **tags)
    return np.where(outside, -1000, BODY)


def test_padding_is_air(tmp_path: Path) -> None:
    expected = padded_series(tmp_path / "s", 63536, PixelPaddingValue=63536)
    volume = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, expected)
    assert "padding" in volume.notes[0]


def test_a_range_of_padding_is_air(tmp_path: Path) -> None:
    tags = {"PixelPaddingValue": 63000, "PixelPaddingRangeLimit": 64000}
    expected = padded_series(tmp_path / "s", 63536, **tags)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, expected)


def test_padding_of_0_leaves_the_tissue_of_0_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    h, w = (np.linspace(-1, 1, n) for n in BODY.shape[1:])
    expected = np.where(np.hypot(h[:, None], w[None]) > 1.15, -1000, BODY)
    expected[:, 12, 11:13] = 0
    for number, plane in enumerate(expected):
        stored = np.where(np.hypot(h[:, None], w[None]) > 1.15, 0, plane).astype(np.int16).view(np.uint16)
        write_dicom_slice(tmp_path / "s" / f"{number}.dcm", stored, (-40, -50, 60 - 3 * number),
                          RescaleIntercept=0, PixelRepresentation=1, PixelPaddingValue=0)  # fmt: skip
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, expected)


def test_a_padding_value_that_is_a_measurement_is_not_believed(tmp_path: Path) -> None:
    tissue = int(np.bincount(BODY[BODY > 0]).argmax())
    write_dicom_series(tmp_path / "s", BODY, PixelPaddingValue=tissue + 1024)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)


def spoil(path: Path, **tags: object) -> None:
    dataset = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.save_as(path)


@pytest.mark.parametrize("which", ["0.dcm", "5.dcm", "11.dcm"])
@pytest.mark.parametrize(
    "tags",
    [{"Modality": "C"}, {"Modality": "MR"}, {"PhotometricInterpretation": "RGB"}, {"SamplesPerPixel": 3},
     {"Rows": 0}, {"PixelSpacing": None}, {"BitsStored": 0}, {"Columns": 30000}, {"BitsStored": 8},
     {"PixelRepresentation": 1}, {"RescaleSlope": 10}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}],
)  # fmt: skip
def test_a_damaged_slice_refuses_the_series(tmp_path: Path, which: str, tags: dict[str, Any]) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    spoil(tmp_path / "s" / which, **tags)
    with pytest.raises(CaseError, match=which):
        read_volume(tmp_path / "s")


@pytest.mark.parametrize("which", ["0.dcm", "5.dcm", "11.dcm"])
@pytest.mark.parametrize("kept", [150, 200, 400, 700])
def test_a_slice_that_ends_early_refuses_the_series(tmp_path: Path, which: str, kept: int) -> None:
    """With its first tags alone it looks like a page without a place."""
    write_dicom_series(tmp_path / "s", BODY)
    path = tmp_path / "s" / which
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CaseError, match=which):
        read_volume(tmp_path / "s")


def test_a_localizer_of_the_series_is_passed_over(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    write_dicom_slice(tmp_path / "s" / "12.dcm", np.zeros((30, 40), np.uint16), (0, 0, 0),
                      ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
                      )  # fmt: skip
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)


def test_a_slice_whose_magic_word_is_damaged_refuses_the_series(tmp_path: Path) -> None:
    uid = "1.2.840.99999.77.1"
    write_dicom_series(tmp_path / "s", BODY, SeriesInstanceUID=uid)
    for path in list((tmp_path / "s").iterdir()):
        path.rename(path.with_suffix(""))
    last = tmp_path / "s" / "11"
    last.write_bytes(b"\0" * 130 + b"XX" + last.read_bytes()[132:])
    with pytest.raises(CaseError, match="11: belongs to the series"):
        read_volume(tmp_path / "s")


@pytest.mark.parametrize("content", [b"", bytes(700)])
def test_what_is_named_like_the_slices_and_is_none_refuses_the_series(tmp_path: Path, content: bytes) -> None:
    """A copy that was interrupted leaves empty files behind."""
    write_dicom_series(tmp_path / "s", BODY)
    for path in list((tmp_path / "s").iterdir()):
        path.rename(path.with_name(f"IM{path.stem}"))
    (tmp_path / "s" / "README.txt").write_text("no slice")
    assert len(read_volume(tmp_path / "s").voxels) == len(BODY)
    (tmp_path / "s" / "IM11").write_bytes(content)
    with pytest.raises(CaseError, match="IM11: belongs to the series"):
        read_volume(tmp_path / "s")


def test_captured_pages_are_passed_over_with_a_note(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    page = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    write_dicom_slice(tmp_path / "s" / "dose.dcm", np.zeros((30, 40), np.uint16), (0, 0, 0), SeriesInstanceUID="9.9",
                      ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], **page)  # fmt: skip
    volume = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert "dose.dcm" in volume.notes[0]


@pytest.mark.parametrize(
    "tags",
    [{"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
     {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}],
)  # fmt: skip
def test_captured_pages_with_a_place_are_passed_over_too(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    write_dicom_slice(tmp_path / "s" / "d", np.zeros((30, 40), np.uint16), (0, 0, 0), SeriesInstanceUID="9.9", **tags)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)


@pytest.mark.parametrize(
    "tags",
    [{"PixelSpacing": [1, 1]}, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
     {"ImagePositionPatient": [], "ImageOrientationPatient": [], "PixelSpacing": []},
     {"RescaleSlope": None, "RescaleIntercept": None}],
)  # fmt: skip
def test_pages_of_another_series_without_a_place_are_passed_over(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    page = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None, **tags}
    write_dicom_slice(tmp_path / "s" / "99.dcm", np.zeros((30, 40), np.uint16), (0, 0, 0), SeriesInstanceUID="9.9",
                      **page)  # fmt: skip
    volume = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(volume.voxels, BODY)
    assert volume.notes == ("passed over 1 captured page(s) without a place, for example 99.dcm",)
    spoil(tmp_path / "s" / "99.dcm", SeriesInstanceUID="1.2.3.4", Rows=24, Columns=24)
    with pytest.raises(CaseError, match=r"99\.dcm"):
        read_volume(tmp_path / "s")


@pytest.mark.parametrize("modality", ["SR", "OT", "PR", "SEG"])
def test_files_of_other_kinds_are_passed_over_with_a_note(tmp_path: Path, modality: str) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    write_dicom_slice(tmp_path / "s" / "d", np.zeros((30, 40), np.uint16), (0, 0, 0), SeriesInstanceUID="9.9",
                      Modality=modality)  # fmt: skip
    [note] = read_volume(tmp_path / "s").notes
    assert f"for example d (its Modality is {modality!r})" in note


def test_a_scan_of_captured_pages_alone_is_read(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "s", BODY, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)


def without_preamble(path: Path, meta: bool) -> None:
    dataset = pydicom.dcmread(path)
    content = path.read_bytes()
    start = 132
    if not meta:
        start += 12 + dataset.file_meta.FileMetaInformationGroupLength
    path.write_bytes(content[start:])


@pytest.mark.parametrize("meta", [False, True])
def test_files_without_preamble_are_read(tmp_path: Path, meta: bool) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    for path in (tmp_path / "s").iterdir():
        without_preamble(path, meta)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)


def test_a_file_that_names_no_transfer_syntax_is_read(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "s", BODY)
    for path in (tmp_path / "s").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta.TransferSyntaxUID
        dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").voxels, BODY)
