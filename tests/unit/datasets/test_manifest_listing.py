import json
import math
from pathlib import Path
from typing import Any

import pytest

from anatobench.datasets.case import PatientLeakageError
from anatobench.datasets.manifest import list_cases
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.registry import list_cases as list_checked
from anatobench.errors import AnatoBenchError, UsageError
from anatobench.tasks import MISSING_TARGET, Geometry, Task

CHEST = ListingOptions(anatomy="chest")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "c.npz", "mask.nii.gz"):
        (folder / name).touch()
    (tmp_path / "outside.nii.gz").touch()
    return folder


def write(root: Path, *lines: str) -> None:
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")


def test_labels_of_ones_own(root: Path) -> None:
    write(root, "scan,split,label:Fracture,label:Nodule", "a.nii.gz,train,1,0", "b.nii.gz,test,,absent")
    listing = list_cases(root, CHEST)
    assert [group.name for group in listing.task.groups] == ["Fracture", "Nodule"]
    assert [(c.case_id, c.patient_id, c.split, c.targets) for c in listing.cases] == [
        ("a", "a", "train", (1, 0)),
        ("b", "b", "test", (MISSING_TARGET, 0)),
    ]


def test_a_built_in_task_by_its_groups_names_and_grades(root: Path) -> None:
    write(
        root,
        "scan,split,patient,case,mask,mask_labels,bowel,label:extravasation,kidney,liver,spleen",
        "a.nii.gz,validation,p1,first,mask.nii.gz,ratic,injury,0,high,1,",
    )
    (case,) = list_cases(root, ListingOptions(task="ratic")).cases
    assert (case.case_id, case.patient_id, case.targets) == ("first", "p1", (1, 0, 2, 1, MISSING_TARGET))
    assert (case.mask, case.mask_labels) == (root / "mask.nii.gz", "ratic")


def test_faults_cost_their_own_cases_only(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.nii.gz"
    write(
        root,
        "scan,split,case,mask,label:x",
        "a.nii.gz,train,good,,1",
        "../outside.nii.gz,train,dots,,1",
        f"{outside},train,absolute,,1",
        "no.nii.gz,train,missing,,1",
        "b.nii.gz,training,split,,1",
        "b.nii.gz,train,grade,,2",
        "b.nii.gz,train,../id,,1",
        "b.nii.gz,train,mask,no.nii.gz,1",
        "b.nii.gz,train,twice,,1",
        "c.npz,train,twice,,1",
        "b.nii.gz,train",
    )
    listing = list_cases(root, CHEST)
    assert [case.case_id for case in listing.cases] == ["good"]
    assert {(r.case_id, r.reason) for r in listing.rejected} == {
        ("dots", "bad-path"),
        ("absolute", "bad-path"),
        ("missing", "missing-scan"),
        ("split", "bad-split"),
        ("grade", "bad-label"),
        ("../id", "bad-id"),
        ("mask", "missing-mask"),
        ("twice", "duplicate-id"),
        ("line-12", "malformed-row"),
    }
    (absolute,) = (one for one in listing.rejected if one.case_id == "absolute")
    assert "is absolute: give --allow-absolute" in absolute.message
    allowed = list_cases(root, ListingOptions(anatomy="chest", allow_absolute=True))
    assert ("absolute", outside) in {(case.case_id, case.scan) for case in allowed.cases}


def test_a_patient_in_two_splits_is_refused(root: Path) -> None:
    write(root, "scan,split,patient,label:x", "a.nii.gz,train,p,1", "b.nii.gz,test,p,1")
    with pytest.raises(PatientLeakageError, match="p in test and train"):
        list_checked("manifest", root, anatomy="chest")


def test_columns_without_meaning_are_refused(root: Path) -> None:
    write(root, "scan,split,lable:x,label:y", "a.nii.gz,train,1,1")
    with pytest.raises(AnatoBenchError, match="'lable:x' means nothing here: for a finding write 'label:x'; see"):
        list_cases(root, CHEST)
    write(root, "scan,split,patiant,label:y", "a.nii.gz,train,p,1")
    with pytest.raises(AnatoBenchError, match="write 'patient' if that is meant, or for a finding 'label:patiant'"):
        list_cases(root, CHEST)
    write(root, "scan,split,liver", "a.nii.gz,train,1")
    with pytest.raises(AnatoBenchError, match="no column label:bowel"):
        list_cases(root, ListingOptions(task="ratic"))
    with pytest.raises(UsageError, match="task or an anatomy"):
        list_cases(root)


def test_options_of_other_data_sets_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="manifest has no such option"):
        list_checked("manifest", root, anatomy="chest", rescale="raw")
    with pytest.raises(UsageError, match="choose one of ratic"):
        list_checked("nothing", root)


def test_links_out_of_the_folder_are_followed_on_request_alone(root: Path, tmp_path: Path) -> None:
    (root / "out.nii.gz").symlink_to(tmp_path / "outside.nii.gz")
    (root / "in.nii.gz").symlink_to(root / "a.nii.gz")
    (root / "series").mkdir()
    (root / "series" / "1.dcm").symlink_to(tmp_path / "outside.nii.gz")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "deep.nii.gz").touch()
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    lines = ["scan,split,case,mask,label:x", "out.nii.gz,train,file,,1", "in.nii.gz,train,inside,,1",
             "series,train,series,,1", "folder/deep.nii.gz,train,folder,,1",
             "b.nii.gz,train,mask,out.nii.gz,1"]  # fmt: skip
    write(root, *lines)
    listing = list_cases(root, CHEST)
    assert [case.case_id for case in listing.cases] == ["inside"]
    assert {one.case_id: one.reason for one in listing.rejected} == dict.fromkeys(
        ("file", "series", "folder", "mask"), "bad-path"
    )
    assert all(str(tmp_path) in one.message and "--allow-absolute" in one.message for one in listing.rejected)
    allowed = list_cases(root, ListingOptions(anatomy="chest", allow_absolute=True))
    assert len(allowed.cases) == 5


def test_an_own_window_spacing_and_crop_are_the_tasks(root: Path) -> None:
    write(root, "scan,split,label:x", "a.nii.gz,train,1")
    own = ListingOptions(anatomy="chest", window=(-500.0, 500.0), spacing=(2.0, 0.7, 0.7), crop=(40, 97, 96))
    task = list_cases(root, own).task
    assert task.window == (-500.0, 500.0)
    for size in ("full", "tiny"):
        geometry = task.geometry(size)
        assert geometry == Geometry((2.0, 0.7, 0.7), (50, 122, 120), (40, 97, 96))
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert "own_geometry" not in list_cases(root, CHEST).task.to_json(), "older stores open and compare as before"


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"spacing": (1.0, 1.0, 1.0)}, "go together"),
        ({"crop": (32, 32, 32)}, "go together"),
        ({"spacing": (0.0, 1.0, 1.0), "crop": (32, 32, 32)}, "above 0"),
        ({"spacing": (1.0, math.nan, 1.0), "crop": (32, 32, 32)}, "above 0"),
        ({"spacing": (1.0, 1.0, 1.0), "crop": (0, 32, 32)}, "has to lie within"),
        ({"spacing": (1.0, 1.0, 1.0), "crop": (2000, 2000, 2000)}, "over the limit"),
        ({"window": (200.0, -100.0)}, "the lower one first"),
        ({"window": (-2000.0, 100.0)}, "within"),
        ({"anatomy": None, "task": "ratic", "window": (0.0, 80.0)}, "has its own window"),
    ],
)
def test_what_no_cohort_can_have_is_refused(root: Path, chosen: dict[str, Any], told: str) -> None:
    write(root, "scan,split,label:x", "a.nii.gz,train,1")
    with pytest.raises(UsageError, match=told):
        list_cases(root, ListingOptions(**{"anatomy": "chest", **chosen}))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Scan,split,label:x", "has no column scan: write 'Scan' as 'scan'"),
        ("SCAN,Split,label:x", "has no column scan, split: write 'SCAN' as 'scan', 'Split' as 'split'"),
        ("scan,split,Patient,label:x", "column 'Patient' means nothing here: write 'patient'"),
        ("scan,split,label:x,LABEL:y", "column 'LABEL:y' means nothing here: write 'label:y'"),
        ("scan,split,Label:x", "column 'Label:x': write 'label:' in small letters"),
    ],
)
def test_a_column_in_capitals_is_told_how_it_is_written(root: Path, header: str, said: str) -> None:
    write(root, header, ",".join(["a.nii.gz", "train", *"1" * header.count(",")][: header.count(",") + 1]))
    with pytest.raises(AnatoBenchError) as caught:
        list_cases(root, CHEST)
    assert said in str(caught.value)
