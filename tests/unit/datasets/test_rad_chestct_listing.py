import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from anatobench.datasets.case import Case, PatientLeakageError
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.rad_chestct import list_cases
from anatobench.datasets.registry import list_cases as list_checked
from anatobench.errors import AnatoBenchError
from anatobench.tasks import RAD_CHESTCT_LABELS

ABNORMALITIES = (*RAD_CHESTCT_LABELS, "nodulegr1cm", "scattered_calc")
COLUMNS = [f"{name}*{place}" for name in ABNORMALITIES for place in ("left_lung", "other_location")]


def row(name: str, **present: object) -> str:
    """Return a row with `<abnormality>*other_location` set; the keyword is the abnormality, its value the field."""
    fields = [str(present.get(column.partition("*")[0], "0")) if "other" in column else "" for column in COLUMNS]
    return ",".join([name, *fields])


def make(
    root: Path,
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    metadata: Mapping[str, int] | None = None,
    skip: Sequence[str] = (),
) -> Path:
    for subset, rows in (("imgtrain", train), ("imgvalid", valid), ("imgtest", test)):
        path = root / f"{subset}_Abnormality_and_Location_Labels.csv"
        path.write_text("\n".join([",".join(["NoteAcc_DEID", *COLUMNS]), *rows]))
        for line in rows:
            name = line.partition(",")[0]
            if name not in skip and "/" not in name:
                (root / f"{name}.npz").touch()
    if metadata is not None:
        lines = [f"{mrn},{name}" for name, mrn in metadata.items()]
        (root / "CT_Scan_Metadata_Complete_35747.csv").write_text("\n".join(["MRN_DEID,NoteAcc_DEID", *lines]))
    return root


def present(case: Case) -> set[str]:
    return {label for label, target in zip(RAD_CHESTCT_LABELS, case.targets, strict=True) if target}


def test_a_class_is_its_exact_prefix_and_nothing_near_it(tmp_path: Path) -> None:
    rows = [row("trn1", nodulegr1cm=1, scattered_calc="1.0"), row("trn2", nodule="1.0", calcification="NaN")]
    cases = list_cases(make(tmp_path, rows)).cases
    assert [present(case) for case in cases] == [set(), {"nodule"}]


def test_a_mapping_may_widen_a_class(tmp_path: Path) -> None:
    make(tmp_path, [row("trn1", nodulegr1cm=1)])
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"nodule": ["nodule", "nodulegr1cm"]}))
    (case,) = list_cases(tmp_path, ListingOptions(mapping=mapping)).cases
    assert present(case) == {"nodule"}


@pytest.mark.parametrize("content", ['{"nodule": ["no_such"]}', '{"nodul": ["nodule"]}', '{"nodule": "nodule"}', "["])
def test_a_wrong_mapping_is_refused(tmp_path: Path, content: str) -> None:
    make(tmp_path, [row("trn1")])
    mapping = tmp_path / "mapping.json"
    mapping.write_text(content)
    with pytest.raises(AnatoBenchError, match=r"mapping\.json|no_such"):
        list_cases(tmp_path, ListingOptions(mapping=mapping))


def test_imgvalid_is_training_data_unless_kept(tmp_path: Path) -> None:
    make(tmp_path, [row("trn1")], [row("val1")], [row("tst1")])
    assert {c.case_id: c.split for c in list_cases(tmp_path).cases} == {
        "trn1": "train",
        "val1": "train",
        "tst1": "test",
    }
    kept = list_cases(tmp_path, ListingOptions(keep_validation=True)).cases
    assert {c.case_id: c.split for c in kept} == {"trn1": "train", "val1": "validation", "tst1": "test"}


def test_rows_without_a_file_are_counted_and_faults_cost_their_own_case(tmp_path: Path) -> None:
    rows = [row("trn1"), row("trn2"), row("trn3", nodule=2), row("../x"), row("trn4"), row("trn4")]
    listing = list_cases(make(tmp_path, rows, skip=("trn2",)))
    assert [case.case_id for case in listing.cases] == ["trn1"]
    assert {r.case_id: r.reason for r in listing.rejected} == {
        "trn3": "bad-label",
        "../x": "bad-id",
        "trn4": "duplicate-id",
    }
    assert any(note.startswith("imgtrain: 1 rows dropped") for note in listing.notes)


def test_the_patient_comes_from_the_metadata_and_leakage_is_found(tmp_path: Path) -> None:
    make(tmp_path, [row("trn1"), row("trn2")], (), [row("tst1")], {"trn1": 5, "trn2": 5, "tst1": 6})
    assert [c.patient_id for c in list_cases(tmp_path).cases] == ["MRN_5", "MRN_5", "MRN_6"]
    make(tmp_path, metadata={"trn1": 5, "trn2": 7, "tst1": 5}, train=[row("trn1"), row("trn2")], test=[row("tst1")])
    with pytest.raises(PatientLeakageError, match="MRN_5"):
        list_checked("rad_chestct", tmp_path)


def test_without_metadata_leakage_cannot_be_checked_and_that_is_said(tmp_path: Path) -> None:
    listing = list_cases(make(tmp_path, [row("trn1")]))
    assert listing.cases[0].patient_id == "trn1"
    assert any("leakage cannot be checked" in note for note in listing.notes)
