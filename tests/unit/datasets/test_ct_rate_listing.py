from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from anatobench.datasets.case import Listing
from anatobench.datasets.ct_rate import list_cases
from anatobench.datasets.options import ListingOptions
from anatobench.errors import AnatoBenchError
from anatobench.tasks import CT_RATE_LABELS

METADATA = "VolumeName,RescaleIntercept,RescaleSlope,XYSpacing,ZSpacing,ImagePositionPatient,ImageOrientationPatient"
PLACE = '"[-100.0, -120.5, 30.0]","[1, 0, 0, 0, 1, 0]"'
SPACED = np.diag([-0.75, -0.75, 1.5, 1.0])


def metadata_row(name: str, spacing: str = '"[0.75, 0.75]",1.5', intercept: float = -8192) -> str:
    return f"{name}.nii.gz,{intercept},1,{spacing},{PLACE}"


class Data:
    """A small CT-RATE folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.dataset = root, root / "dataset"
        for folder in ("multi_abnormality_labels", "metadata"):
            (self.dataset / folder).mkdir(parents=True)

    def tables(self, split: str, names: Sequence[str], metadata: Sequence[str] | None = None) -> None:
        labels = [f"{name}.nii.gz," + ",".join(["1"] + ["0"] * 17) for name in names]
        header = ",".join(("VolumeName", *CT_RATE_LABELS))
        path = self.dataset / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        path.write_text("\n".join([header, *labels]))
        rows = [metadata_row(name) for name in names] if metadata is None else metadata
        long_split = {"train": "train", "valid": "validation"}[split]
        (self.dataset / "metadata" / f"{long_split}_metadata.csv").write_text("\n".join([METADATA, *rows]))

    def scan(self, folder: str, name: str, affine: np.ndarray) -> Path:
        path = self.path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype=np.int16), affine), path)
        return path

    def path(self, folder: str, name: str) -> Path:
        patient = "_".join(name.split("_")[:2])
        return self.dataset / folder / patient / name.rpartition("_")[0] / f"{name}.nii.gz"

    def list(self, **options: Any) -> Listing:
        return list_cases(self.root, ListingOptions(**options))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def reasons(listing: Listing) -> dict[str, str]:
    return {one.case_id: one.reason for one in listing.rejected}


def test_numbers_restart_so_equal_numbers_are_different_people(data: Data) -> None:
    data.tables("train", ["train_1_a_1"])
    data.tables("valid", ["valid_1_a_1"])
    data.scan("train_fixed", "train_1_a_1", SPACED)
    data.scan("valid_fixed", "valid_1_a_1", SPACED)
    assert {(c.patient_id, c.split) for c in data.list().cases} == {("train_1", "train"), ("valid_1", "test")}


def test_raw_files_get_slope_intercept_and_place_from_the_metadata(data: Data) -> None:
    data.tables("train", ["train_2_ab_1"])
    data.scan("train", "train_2_ab_1", np.eye(4))
    (case,) = data.list().cases
    assert case.header is not None
    assert case.header.affine is not None
    assert (case.header.slope, case.header.intercept) == (1.0, -8192.0)
    expected: list[list[float]] = [[-0.75, 0, 0, 100.0], [0, -0.75, 0, 120.5], [0, 0, 1.5, 30.0], [0, 0, 0, 1]]
    np.testing.assert_allclose(case.header.affine, expected)
    assert case.targets == (1,) + (0,) * 17


def test_fixed_files_are_hu_and_never_rescaled(data: Data) -> None:
    data.tables("train", ["train_2_a_1"])
    data.scan("train_fixed", "train_2_a_1", SPACED)
    data.scan("train", "train_2_a_1", np.eye(4))
    (case,) = data.list().cases
    assert case.header is None
    assert "train_fixed" in case.scan.parts
    (case,) = data.list(rescale="raw").cases
    assert case.header is not None
    assert "train_fixed" not in case.scan.parts


@pytest.mark.parametrize(
    ("affine", "spacing"),
    [
        (np.eye(4), '"[1.0, 1.0]",1.0'),  # blank, but just what the metadata say
        (np.diag([-0.5, -0.5, 1.5, 1.0]), '"[0.75, 0.75]",1.5'),  # neither blank nor right
    ],
)
def test_what_cannot_be_told_is_refused_until_the_person_says(data: Data, affine: np.ndarray, spacing: str) -> None:
    data.tables("train", ["train_1_a_1"], [metadata_row("train_1_a_1", spacing)])
    data.scan("train_fixed", "train_1_a_1", affine)
    listing = data.list()
    assert reasons(listing) == {"train_1_a_1": "ambiguous-rescale"}
    assert "--rescale" in listing.rejected[0].message
    assert data.list(rescale="hu").cases[0].header is None
    assert data.list(rescale="raw").cases[0].header is not None


def test_a_statement_that_the_header_contradicts_is_refused(data: Data) -> None:
    data.tables("train", ["train_1_a_1", "train_2_a_1"])
    data.scan("train_fixed", "train_1_a_1", SPACED)
    data.scan("train", "train_2_a_1", np.eye(4))
    assert reasons(data.list(rescale="raw")) == {"train_1_a_1": "rescale-contradicts-header"}
    assert reasons(data.list(rescale="hu")) == {"train_2_a_1": "rescale-contradicts-header"}


def test_raw_files_in_the_fixed_folder_are_noticed(data: Data) -> None:
    data.tables("train", ["train_1_a_1"])
    data.scan("train_fixed", "train_1_a_1", np.eye(4))
    header = data.list().cases[0].header
    assert header is not None
    assert header.intercept == -8192


def test_heads_and_known_bad_reconstructions_are_left_out_with_a_note(data: Data) -> None:
    names = ["train_1_a_1", "train_5_a_1", "train_1267_a_4"]
    data.tables("train", names)
    for name in names:
        data.scan("train_fixed", name, SPACED)
    (data.dataset / "metadata" / "no_chest_train.txt").write_text("train_5_a_1.nii.gz\n")
    listing = data.list()
    assert [case.case_id for case in listing.cases] == ["train_1_a_1"]
    assert any("2 volumes left out" in note for note in listing.notes)


def test_faults_cost_their_own_cases_only(data: Data) -> None:
    good, names = (
        "train_1_a_1",
        ["train_1_a_1", "train_2_a_1", "train_3_a_1", "train_4_a_1", "valid_5_a_1", "train_6_a_1"],
    )
    metadata = [metadata_row(good), metadata_row("train_4_a_1", '"os.system(1)",1.5'), metadata_row("train_6_a_1")]
    data.tables("train", names, metadata)
    for name in (good, "train_3_a_1", "train_4_a_1"):
        data.scan("train_fixed", name, SPACED)
    data.path("train_fixed", "train_6_a_1").parent.mkdir(parents=True)
    data.path("train_fixed", "train_6_a_1").write_bytes(b"\x1f\x8b no gzip")
    listing = data.list()
    assert [case.case_id for case in listing.cases] == [good]
    assert reasons(listing) == {
        "train_2_a_1": "missing-scan",
        "train_3_a_1": "missing-metadata",
        "train_4_a_1": "bad-metadata",
        "valid_5_a_1": "bad-id",
        "train_6_a_1": "bad-header",
    }


def test_names_that_would_leave_the_folder_are_refused(data: Data) -> None:
    data.tables("train", ["../../train_1_a_1"], [])
    assert set(reasons(data.list()).values()) == {"bad-id"}


def test_the_data_sets_own_masks_are_used_and_given_ones_preferred(data: Data, tmp_path: Path) -> None:
    data.tables("train", ["train_1_a_1", "train_2_a_1"])
    for name in ("train_1_a_1", "train_2_a_1"):
        data.scan("train_fixed", name, SPACED)
        data.scan("ts_seg/ts_total/train_fixed", name, SPACED)
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "train_1_a_1.nii.gz").touch()
    cases = {case.case_id: case for case in data.list(masks=masks).cases}
    assert (cases["train_1_a_1"].mask, cases["train_1_a_1"].mask_labels) == (masks / "train_1_a_1.nii.gz", "auto")
    assert cases["train_2_a_1"].mask == data.path("ts_seg/ts_total/train_fixed", "train_2_a_1")
    assert cases["train_2_a_1"].mask_labels == "totalsegmentator_v2"


def test_missing_tables_are_faults_of_the_whole(data: Data) -> None:
    with pytest.raises(AnatoBenchError, match="multi_abnormality_labels"):
        data.list()
    data.tables("train", ["train_1_a_1"])
    (data.dataset / "metadata" / "train_metadata.csv").unlink()
    with pytest.raises(AnatoBenchError, match=r"train_metadata\.csv is missing"):
        data.list()
    data.scan("train_fixed", "train_1_a_1", SPACED)
    assert len(data.list(rescale="hu").cases) == 1


def test_a_name_that_no_file_can_have_is_its_rows_fault(data: Data) -> None:
    long = f"train_3_{'a' * 300}_1"
    data.tables("train", ["train_1_a_1", long])
    data.scan("train_fixed", "train_1_a_1", SPACED)
    (data.dataset / "train_fixed" / "train_3").mkdir()
    listing = data.list()
    assert [case.case_id for case in listing.cases] == ["train_1_a_1"]
    assert reasons(listing) == {long: "bad-path"}


def test_a_list_of_names_that_is_no_text_is_named(data: Data) -> None:
    data.tables("train", ["train_1_a_1"])
    path = data.dataset / "metadata" / "no_chest_train.txt"
    path.write_bytes("train_1_a_1\n".encode("utf-16"))
    with pytest.raises(AnatoBenchError, match=r"no_chest_train\.txt is no readable list"):
        data.list()
