"""Own cohorts with graded findings, and with weights of grades and of scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anatobench.datasets.grades import parse_grades
from anatobench.datasets.manifest import list_cases
from anatobench.datasets.options import ListingOptions
from anatobench.errors import UsageError
from anatobench.tasks import MISSING_TARGET, LabelGroup, Task

LIVER = parse_grades("liver=healthy,low,high")


def manifest(root: Path, *lines: str) -> Path:
    for name in ("a", "b", "c", "d", "e", "f"):
        (root / f"{name}.nii.gz").touch()
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def chest(*grades: str, weights: str | None = None) -> ListingOptions:
    return ListingOptions(anatomy="chest", grades=tuple(parse_grades(one) for one in grades), weights=weights)


def test_grades_are_read_by_name_and_by_number(tmp_path: Path) -> None:
    manifest(
        tmp_path,
        "scan,split,label:liver,label:effusion",
        "a.nii.gz,train,high,1",
        "b.nii.gz,train,1,0",
        "c.nii.gz,test,,absent",
        "d.nii.gz,test,healthy,",
        "e.nii.gz,test,3,1",
        "f.nii.gz,test,Low,1",
    )
    listing = list_cases(tmp_path, chest("liver=healthy,low,high"))
    assert listing.task.groups == (LIVER, LabelGroup("effusion"))
    assert [case.targets for case in listing.cases] == [(2, 1), (1, 0), (MISSING_TARGET, 0), (0, MISSING_TARGET)]
    told = {one.case_id: one.message for one in listing.rejected}
    assert told["e"] == "line 6: liver is '3': write one of healthy, low, high, or 0, 1, 2, or nothing"
    assert told["f"].startswith("line 7: liver is 'Low'")


def test_more_than_two_grades_are_a_softmax_and_shown_one_by_one(tmp_path: Path) -> None:
    manifest(tmp_path, "scan,split,label:liver,label:effusion", "a.nii.gz,train,2,1")
    task = list_cases(tmp_path, chest("liver=healthy,low,high")).task
    assert [group.logit_count for group in task.groups] == [3, 1]
    assert task.class_names == ("liver_healthy", "liver_low", "liver_high", "effusion_absent", "effusion_present")
    two = list_cases(tmp_path, chest("liver=no,yes")).rejected
    assert [one.message for one in two] == ["line 2: liver is '2': write one of no, yes, or 0, 1, or nothing"]
    manifest(tmp_path, "scan,split,label:liver", "a.nii.gz,train,yes")
    task = list_cases(tmp_path, chest("liver=no,yes")).task
    assert (task.groups[0].logit_count, task.class_names) == (1, ("liver",))


def test_grades_whose_names_are_numbers_are_names(tmp_path: Path) -> None:
    """BI-RADS 1 is the grade called 1, not the second one."""
    manifest(tmp_path, "scan,split,label:birads", "a.nii.gz,train,1", "b.nii.gz,train,5", "c.nii.gz,train,0")
    listing = list_cases(tmp_path, chest("birads=1,2,3,4,5"))
    assert [case.targets for case in listing.cases] == [(0,), (4,)]
    assert [one.message for one in listing.rejected] == [
        "line 4: birads is '0': write one of 1, 2, 3, 4, 5, or nothing"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("liver", "write the finding's name"),
        ("=a,b", "write the finding's name"),
        ("liver=a,,b", "write the finding's name"),
        ("liver=a", "at least two grades"),
        ("liver=a,b,a", "each needs a name of its own"),
        ("liver=a:1,b", "'b' has no weight"),
        ("liver=a:1,b:x", "'x' is no weight"),
        ("liver=a:1,:2", "a grade has no name"),
        ("liver=a:1,b:0", "give numbers above 0"),
        ("liver=a:1,b:-1", "give numbers above 0"),
        ("liver=a:1,b:nan", "give numbers above 0"),
        ("liver=a:1,b:inf", "give numbers above 0"),
    ],
)
def test_what_are_no_grades_is_one_sentence(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_grades(text)


def test_grades_that_fit_no_column_name_the_columns(tmp_path: Path) -> None:
    manifest(tmp_path, "scan,split,label:liver,label:x", "a.nii.gz,train,1,1")
    with pytest.raises(UsageError, match=r"manifest.csv has no column label:Liver: its findings are liver, x"):
        list_cases(tmp_path, chest("Liver=a,b"))
    with pytest.raises(UsageError, match="given twice"):
        list_cases(tmp_path, chest("liver=a,b", "liver=a,b,c"))
    with pytest.raises(UsageError, match="a built-in task has its own grades"):
        list_cases(tmp_path, ListingOptions(task="ratic", grades=(LIVER,)))


def test_weights_of_grades_stand_in_the_task(tmp_path: Path) -> None:
    manifest(tmp_path, "scan,split,label:liver,label:x", "a.nii.gz,train,2,1")
    task = list_cases(tmp_path, chest("liver=healthy:1,low:2.5,high:4", "x=no:1,yes:3")).task
    assert [group.sample_weights for group in task.groups] == [(1.0, 2.5, 4.0), (1.0, 3.0)]
    assert task.groups[0].grades == ("healthy", "low", "high")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_balanced_weights_come_of_the_training_cases_alone(tmp_path: Path) -> None:
    rows = ["a.nii.gz,train,0,1", "b.nii.gz,train,0,1", "c.nii.gz,train,0,", "d.nii.gz,train,1,1"]
    header = "scan,split,label:liver,label:x"
    manifest(tmp_path, header, *rows, "e.nii.gz,test,2,0", "f.nii.gz,validation,1,0")
    listing = list_cases(tmp_path, chest("liver=healthy,low,high", weights="balanced"))
    liver, other = (group.sample_weights for group in listing.task.groups)
    assert liver == (4 / (2 * 3), 4 / (2 * 1), 1.0), "no training case is high"
    assert sum(liver[case.targets[0]] for case in listing.cases if case.split == "train") == pytest.approx(4)
    assert other == (1.0, 1.0), "of one grade, all of them"
    assert (
        "balanced weights of liver: healthy 0.667 (3 in training), low 2 (1 in training), high 1 (0 in training)"
        in listing.notes
    )
    with pytest.raises(UsageError, match="'liver' have weights already"):
        list_cases(tmp_path, chest("liver=healthy:1,low:2,high:4", weights="balanced"))
    with pytest.raises(UsageError, match="weights 'even'"):
        chest(weights="even")


def test_a_scans_own_weight(tmp_path: Path) -> None:
    header = "scan,split,weight,label:x"
    manifest(tmp_path, header, "a.nii.gz,train,2.5,1", "b.nii.gz,train,,1", "c.nii.gz,train,1,0",
             *(f"{name}.nii.gz,train,{bad},0" for name, bad in (("d", "0"), ("e", "1e400"), ("f", "1_0"))))  # fmt: skip
    listing = list_cases(tmp_path, chest())
    assert [case.weight for case in listing.cases] == [2.5, 1.0, 1.0]
    assert listing.task.case_weights
    assert {(one.case_id, one.reason) for one in listing.rejected} == {(n, "bad-weight") for n in ("d", "e", "f")}
    assert listing.rejected[0].message == "line 5: weight '0': give a number from 1e-6 to 1e6, or nothing for 1"
    assert list_cases(tmp_path, chest()).task.to_json()["case_weights"] is True
    manifest(tmp_path, header, "a.nii.gz,train,1,1", "b.nii.gz,train,1.0,0")
    assert "case_weights" not in list_cases(tmp_path, chest()).task.to_json(), "as a manifest without the column"
