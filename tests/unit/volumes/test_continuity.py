"""Two phases, reconstructions or scans that follow one another under one header are refused or named; one is not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import AFFINE, NO_SHARED_DATA, SHARED_DATA, body_voxels, turned, write_dicom_slice, write_nifti_file

from anatobench.errors import CaseError
from anatobench.volumes.continuity import jumps
from anatobench.volumes.read import read_volume


def trunk(slices: int, first: float = 0.0, last: float = 1.0, seed: int = 0, enhanced: bool = False) -> np.ndarray:
    """int16 [slices, 24, 24] HU of a body whose lungs shrink from `first` to `last` of its height (0 top, 1 bottom)."""
    voxels = body_voxels((slices, 24, 24), seed).astype(np.float64)
    h, w = np.abs(np.linspace(-1, 1, 24))[:, None], np.abs(np.linspace(-1, 1, 24))[None]
    for plane, place in zip(voxels, np.linspace(first, last, slices), strict=True):
        share = np.clip((np.hypot(h, w) - 0.9 + 0.9 * place) / 0.5, 0, 1)
        plane[:] = np.where(plane < -700, plane + np.where(np.hypot(h / 0.7, w / 0.9) < 0.85, 900 * share, 0), plane)
    if enhanced:
        voxels[(voxels > -50) & (voxels < 300)] += 70
    return np.rint(voxels).astype(np.int16)


def series(folder: Path, voxels: np.ndarray, tags: Sequence[dict[str, Any]] | None = None) -> Path:
    folder.mkdir()
    for number, plane in enumerate(voxels):
        stored = (plane.astype(np.int32) + 1024).astype(np.uint16)
        more = tags[number] if tags else {}
        write_dicom_slice(folder / f"{number:03}.dcm", stored, (-40, -50, 100.0 - 3 * number), **more)
    return folder


TWO_PHASES = np.concatenate([trunk(20), trunk(20, seed=1, enhanced=True)])
HALVES = np.concatenate([trunk(20, 0, 0.5), trunk(20, 0.5, 1, seed=1, enhanced=True)])
NEVER_IN_ONE = {
    "KVP": ("80", "140"),
    "ConvolutionKernel": ("B30f", "B70f"),
    "TemporalPositionIdentifier": (1, 2),
    "NominalPercentageOfCardiacPhase": (40, 75),
    "ContrastBolusAgent": ("", "iodine"),
}
IN_SEVERAL_PARTS = {
    "AcquisitionNumber": (1, 2),
    "AcquisitionTime": ("101010", "101055"),
    "AcquisitionDateTime": ("20200101101010", "20200101101055"),
    "TriggerTime": (100, 600),
    "ImageType": ("ORIGINAL\\PRIMARY\\AXIAL", "DERIVED\\PRIMARY\\AXIAL"),
    "SliceThickness": (1.0, 5.0),
    "ScanOptions": ("HELICAL MODE", "AXIAL MODE"),
}


@pytest.mark.parametrize("tag", [*NEVER_IN_ONE, *IN_SEVERAL_PARTS])
def test_a_second_phase_behind_the_first_is_refused(tmp_path: Path, tag: str) -> None:
    values = (NEVER_IN_ONE | IN_SEVERAL_PARTS)[tag]
    with pytest.raises(CaseError, match=rf"{tag}.*own folder") as caught:
        read_volume(series(tmp_path / "s", TWO_PHASES, [{tag: values[number // 20]} for number in range(40)]))
    assert caught.value.reason == "several-acquisitions"
    assert str(values[1]).split("\\")[0] in str(caught.value)


@pytest.mark.parametrize("tag", NEVER_IN_ONE)
def test_what_no_scan_changes_is_refused_without_a_jump(tmp_path: Path, tag: str) -> None:
    tags = [{tag: NEVER_IN_ONE[tag][number // 20]} for number in range(40)]
    with pytest.raises(CaseError, match=f"{tag} .* follow each other"):
        read_volume(series(tmp_path / "s", HALVES, tags))


@pytest.mark.parametrize("tag", IN_SEVERAL_PARTS)
def test_what_parts_of_a_scan_may_differ_in_is_named_alone(tmp_path: Path, tag: str) -> None:
    tags = [{tag: IN_SEVERAL_PARTS[tag][number // 20]} for number in range(40)]
    notes = read_volume(series(tmp_path / "s", trunk(40), tags)).notes
    assert notes == (f"the series has 2 values of {tag}, one part after the other",)


@pytest.mark.parametrize("name", ["a value written in two ways", "a time per slice", "a tag that one slice lacks"])
def test_one_scan_with_an_odd_header_is_read(tmp_path: Path, name: str) -> None:
    odd: dict[str, list[dict[str, Any]]] = {
        "a value written in two ways": [{"KVP": "120" if number < 9 else "120.0"} for number in range(20)],
        "a time per slice": [{"AcquisitionTime": f"1010{number:02}.5"} for number in range(20)],
        "a tag that one slice lacks": [{"KVP": 120, "ContrastBolusAgent": "x" if number else None}
                                       for number in range(20)],
    }  # fmt: skip
    assert read_volume(series(tmp_path / "s", trunk(20), odd[name])).notes == ()


def test_numbers_that_begin_anew_where_the_voxels_jump_are_two_scans(tmp_path: Path) -> None:
    half = trunk(20)[:10]
    other = trunk(30, 0.4, 1, seed=2)  # no anatomy twice, so that the voxels alone prove nothing
    voxels = np.concatenate([half, other[10:] + 30])
    tags = [{"InstanceNumber": number % 10 + 1 if number < 10 else number - 9} for number in range(len(voxels))]
    voxels[10:] = np.roll(voxels[10:], 4, axis=2)
    with pytest.raises(CaseError, match="InstanceNumber begins anew"):
        read_volume(series(tmp_path / "s", voxels, tags))
    assert "one after the other?" in read_volume(series(tmp_path / "no numbers", voxels)).notes[0]


@pytest.mark.parametrize("parts", ["the same range", "a part of it", "a later part first"])
@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_anatomy_that_comes_twice_is_refused_whatever_the_tags(tmp_path: Path, parts: str, form: str) -> None:
    one, other = trunk(24), trunk(24, seed=1, enhanced=True)
    voxels = {
        "the same range": np.concatenate([one, other]),
        "a part of it": np.concatenate([one, other[4:22]]),
        "a later part first": np.concatenate([one[8:], other]),
    }[parts]
    if form == "dicom":
        path = series(tmp_path / "s", voxels)
    else:
        path = write_nifti_file(tmp_path / "s.nii.gz", *turned(voxels, AFFINE, "LPS"))
    with pytest.raises(CaseError, match="the same anatomy once more") as caught:
        read_volume(path)
    assert caught.value.reason == "several-scans"


@pytest.mark.parametrize("kind", ["whole", "air above", "one kind of slice", "four slices", "three slices"])
def test_one_scan_has_no_jump(kind: str) -> None:
    voxels = {
        "whole": trunk(40),
        "air above": np.concatenate([np.full((5, 24, 24), -1000, np.int16), trunk(30)]),
        "one kind of slice": body_voxels((20, 24, 24)),
        "four slices": trunk(4),
        "three slices": trunk(3),
    }[kind]
    assert jumps(voxels) == []


def test_modules_of_a_phantom_are_no_second_scan(tmp_path: Path) -> None:
    one, other = body_voxels((8, 24, 24)), body_voxels((8, 24, 24), seed=1)
    other[:, 8:16, 8:16] = 900
    volume = read_volume(series(tmp_path / "s", np.concatenate([one, other, one])))
    assert volume.notes[0].startswith("behind slice 8, 16 from above the voxels jump")


@pytest.mark.parametrize("last", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_a_phantom_whose_ends_are_alike_is_one_scan(tmp_path: Path, last: int, seed: int) -> None:
    """It changes in steps: behind the last of them come slices like the first ones, which change no more."""
    parts = [body_voxels((count, 24, 24), seed + 9 * number) for number, count in enumerate((3, 2, 3, 20, 3, 2, last))]
    for part, width in zip(parts, (0, 2, 4, 8, 4, 2, 0), strict=True):
        part[:, 9:15, 8 : 8 + width] = -850
    for part in parts:
        part[part < -700] = -1000
    volume = read_volume(series(tmp_path / "s", np.concatenate(parts)))
    assert len(volume.voxels) == 33 + last


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct_small.nii.gz", "dicom"])
def test_real_scans_go_on_and_put_together_they_do_not(name: str) -> None:
    voxels = read_volume(SHARED_DATA / name).voxels
    assert not any(jumps(voxels[::step]) for step in (1, 2, 3))
    third = len(voxels) // 4
    found = jumps(np.concatenate([voxels[: 3 * third], voxels[third:] + 20]))
    assert [jump.after for jump in found] == [3 * third - 1]
