"""A store is whole or says what is missing, is the same whoever wrote it, and never reads a damaged case as sound."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anatobench.datasets.case import PatientLeakageError, Rejection
from anatobench.errors import AnatoBenchError
from anatobench.store.reader import CHECKSUMS_VARIABLE, Store, StoredCase, data_file, index_content, record_file
from anatobench.store.writer import CaseOrigin, PreparedCase, StoreWriter
from anatobench.tasks import get_task

MakeStore = Callable[..., Store]


def write_case(root: Path, case_id: str, patient_id: str = "p", split: str = "train") -> None:
    task = get_task("ratic")
    writer = StoreWriter(root)
    if not (root / "store.json").exists():
        writer.create(task, "tiny", "test", {})
    volume = np.zeros(task.geometry("tiny").padded_size, np.int16)
    origin = CaseOrigin(case_id, patient_id, split, (0, 1, 2, 0, -1), "scan.nii", None)
    writer.write(origin, PreparedCase(volume, None, np.eye(4)))


def test_what_was_written_is_what_opens(make_noise_store: MakeStore) -> None:
    store = make_noise_store(12)
    assert [case.case_id for case in store.cases] == [f"case_{i:03}" for i in range(12)]
    assert (store.task, store.size, store.dataset) == (get_task("ct_rate"), "tiny", "noise")
    assert store.geometry == get_task("ct_rate").geometry("tiny")
    assert store.split("validation") == [0, 10]
    assert store.split("test") == [1, 11]
    assert store.cases[4].affine[0] == (-12.0, 0.0, 0.0, 0.0)
    assert store.cases[3].has_mask is False
    assert store.cases[4].has_mask is True


def test_a_store_read_in_another_process_is_the_same(noise_store: Store) -> None:
    copy = pickle.loads(pickle.dumps(noise_store))
    size = noise_store.geometry.crop_size
    for one, other in zip(noise_store.read_crop(4, (1, 2, 3), size), copy.read_crop(4, (1, 2, 3), size), strict=True):
        np.testing.assert_array_equal(one, other)


def test_opening_says_what_to_do(tmp_path: Path, make_noise_store: MakeStore) -> None:
    with pytest.raises(AnatoBenchError, match=r"is not a store.*anatobench prepare"):
        Store.open(tmp_path)
    store = make_noise_store(3)
    (store.root / "index.json").unlink()
    with pytest.raises(AnatoBenchError, match=r"index\.json is missing.*again"):
        Store.open(store.root)


def test_another_format_version_is_refused(make_noise_store: MakeStore) -> None:
    path = make_noise_store(1).root / "store.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(AnatoBenchError, match="version 2"):
        Store.open(path.parent)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format_version": 1}', b'{"format_version": 1, "task": 3}'])
def test_a_damaged_description_is_an_error_that_names_it(make_noise_store: MakeStore, content: bytes) -> None:
    store = make_noise_store(1)
    (store.root / "store.json").write_bytes(content)
    with pytest.raises(AnatoBenchError, match=r"store\.json"):
        Store.open(store.root)


def test_an_index_entry_cannot_leave_the_folder(make_noise_store: MakeStore) -> None:
    path = make_noise_store(1).root / "index.json"
    path.write_text(path.read_text().replace("case_000", "../../case"))
    with pytest.raises(AnatoBenchError, match="not allowed"):
        Store.open(path.parent)


def test_a_missing_or_shortened_data_file_is_named_on_opening(make_noise_store: MakeStore) -> None:
    store = make_noise_store(3)
    path = data_file(store.root, "case_001")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AnatoBenchError, match=r"case_001.*prepare.*again"):
        Store.open(store.root)
    path.unlink()
    with pytest.raises(AnatoBenchError, match=r"case_001.*prepare.*again"):
        Store.open(store.root)
    with pytest.raises(AnatoBenchError, match=r"case case_001: cannot read .*case_001\.safetensors"):
        store.read_crop(1, (0, 0, 0), store.geometry.crop_size)


def test_one_flipped_bit_is_found_and_named(make_noise_store: MakeStore) -> None:
    store = make_noise_store(3)
    seen: list[int] = []
    assert store.verify(seen.append) == []
    assert seen == [case.byte_size for case in store.cases]
    path = data_file(store.root, "case_002")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    [fault] = store.verify()
    assert "case_002" in fault
    assert str(path) in fault


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("targets", [(0, 5, *(0,) * 16), (-2, *(0,) * 17), (0,) * 17, (0,) * 19])
def test_labels_that_the_task_does_not_have_are_not_opened(make_noise_store: MakeStore, targets: tuple[int]) -> None:
    store = make_noise_store(3)
    cases = [replace(case, targets=targets) if case.case_id == "case_001" else case for case in store.cases]
    (store.root / "index.json").write_bytes(index_content(cases))
    with pytest.raises(AnatoBenchError, match=r"case case_001: labels .* do not fit the 18 label groups of ct_rate"):
        Store.open(store.root)


def test_a_case_that_stands_twice_is_not_opened(make_noise_store: MakeStore) -> None:
    store = make_noise_store(3)
    (store.root / "index.json").write_bytes(index_content([*store.cases, store.cases[1]]))
    with pytest.raises(AnatoBenchError, match="case case_001: stands twice"):
        Store.open(store.root)


def test_leakage_is_not_opened(make_noise_store: MakeStore) -> None:
    store = make_noise_store(3)  # validation, test, train
    first, second, third = store.cases
    patient = index_content([first, replace(second, patient_id=first.patient_id), third])
    scan = index_content([first, replace(second, volume_checksum=first.volume_checksum), third])
    for content, fault in ((patient, "patient_0 in test and validation"), (scan, "case_000 .* are the same scan")):
        (store.root / "index.json").write_bytes(content)
        with pytest.raises(PatientLeakageError, match=fault):
            Store.open(store.root)


def test_an_index_that_was_changed_is_not_opened_and_an_older_one_is(make_noise_store: MakeStore) -> None:
    store = make_noise_store(3)
    path = store.root / "index.json"
    content = path.read_text()
    path.write_text(content.replace('"patient_id": "patient_2"', '"patient_id": "patient_7"'))
    with pytest.raises(AnatoBenchError, match=r"index\.json: is damaged \(it differs from its checksum\).*again"):
        Store.open(store.root)
    first, _, rest = content.partition("\n")
    assert "checksum" in first
    path.write_text('{"format_version": 1, "cases": [\n' + rest)
    assert Store.open(store.root) == store


def test_a_damaged_file_is_found_when_a_process_first_reads_it(
    make_noise_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: what was sound is not compared again, which would cost a whole file for every crop."""
    store = make_noise_store(3)
    crop = store.geometry.crop_size
    store.read_crop(1, (0, 0, 0), crop)
    for number in (1, 2):
        flip_a_bit(data_file(store.root, f"case_00{number}"))
    store.read_crop(1, (0, 0, 0), crop)
    for _ in range(2):
        with pytest.raises(AnatoBenchError, match=r"case case_002: cannot read .*: it differs from its checksum: del"):
            store.read_crop(2, (0, 0, 0), crop)
    other_process = "import sys; from anatobench.store.reader import Store; s = Store.open(sys.argv[1])\n"
    other_process += "s.read_crop(1, (0, 0, 0), s.geometry.crop_size)"
    ended = subprocess.run([sys.executable, "-c", other_process, store.root], capture_output=True, text=True)
    assert "case case_001" in ended.stderr
    monkeypatch.setenv(CHECKSUMS_VARIABLE, "off")
    store.read_crop(2, (0, 0, 0), crop)


def test_the_switch_for_checksums_is_on_or_off(make_noise_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is neither must not leave a person in the belief that it was heard."""
    store = make_noise_store(1)
    for stated in ("0", "OFF", "false"):
        monkeypatch.setenv(CHECKSUMS_VARIABLE, stated)
        with pytest.raises(AnatoBenchError, match=f"{CHECKSUMS_VARIABLE}={stated}: is neither on nor off"):
            Store.open(store.root)
    for stated in ("on", "", "off"):
        monkeypatch.setenv(CHECKSUMS_VARIABLE, stated)
        Store.open(store.root).read_crop(0, (0, 0, 0), store.geometry.crop_size)


def test_all_faults_are_named(make_noise_store: MakeStore) -> None:
    store = make_noise_store(6)
    cases = [replace(case, targets=(9,) * 18) if case.case_id == "case_004" else case for case in store.cases]
    (store.root / "index.json").write_bytes(index_content(cases))
    data_file(store.root, "case_000").unlink()
    data_file(store.root, "case_001").write_bytes(b"short")
    flip_a_bit(data_file(store.root, "case_003"))
    faults = Store.read_index(store.root).verify()
    assert [fault.split()[1] for fault in faults] == ["case_000:", "case_001:", "case_004:", "case_003:"]


def test_other_arguments_are_refused_and_named(tmp_path: Path) -> None:
    root = tmp_path / "store"
    StoreWriter(root).create(get_task("ratic"), "tiny", "ratic", {"seed": 1})
    StoreWriter(root).create(get_task("ratic"), "tiny", "ratic", {"seed": 1})
    with pytest.raises(AnatoBenchError, match='size "tiny", not "full"'):
        StoreWriter(root).create(get_task("ratic"), "full", "ratic", {"seed": 1})
    with pytest.raises(AnatoBenchError, match=r'options \{"seed": 1\}, not \{"seed": 2\}'):
        StoreWriter(root).create(get_task("ratic"), "tiny", "ratic", {"seed": 2})
    with pytest.raises(AnatoBenchError, match="another task"):
        StoreWriter(root).create(get_task("ct_rate"), "tiny", "ratic", {"seed": 1})


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(AnatoBenchError, match="other files"):
        StoreWriter(tmp_path).create(get_task("ratic"), "tiny", "ratic", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_only_whole_cases_count_as_finished(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    writer = StoreWriter(tmp_path)
    assert writer.finished("a") is not None
    assert writer.finished("b") is None
    content = data_file(tmp_path, "a").read_bytes()
    data_file(tmp_path, "a").write_bytes(content[:-1])
    assert writer.finished("a") is None
    data_file(tmp_path, "a").write_bytes(content)
    shutil.copy(record_file(tmp_path, "a"), record_file(tmp_path, "b"))
    shutil.copy(data_file(tmp_path, "a"), data_file(tmp_path, "b"))
    assert writer.finished("b") is None  # a copied record is another case's
    record_file(tmp_path, "a").write_text("{")
    assert writer.finished("a") is None


def test_leftovers_of_ones_own_cases_alone_are_removed(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    own = tmp_path / "cases" / ".a.safetensors.0123abcd.tmp"
    others = tmp_path / "cases" / ".b.json.0123abcd.tmp"
    own.touch()
    others.touch()
    StoreWriter(tmp_path).remove_leftovers({"a"})
    assert not own.exists()
    assert others.exists()
    assert StoreWriter(tmp_path).finished("a") is not None


def test_a_patient_in_two_splits_stops_the_index(tmp_path: Path) -> None:
    write_case(tmp_path, "a", split="train")
    write_case(tmp_path, "b", split="test")
    with pytest.raises(PatientLeakageError, match="example p in test and train"):
        StoreWriter(tmp_path).finish()


def test_rejected_cases_are_listed_until_they_are_written(tmp_path: Path) -> None:
    write_case(tmp_path, "good")
    writer = StoreWriter(tmp_path)
    writer.reject(Rejection("bad", "x/bad.nii", "nan", 'has "NaN",\nand\r\nmore'))
    writer.reject(Rejection("later", "later.nii", "truncated", "is short"))
    listed = [Rejection("../outside", "p", "bad-case-id", "no"), Rejection("good", "copy.nii", "duplicate-id", "twice")]
    assert writer.finish(listed) == 1
    text = (tmp_path / "rejected.csv").read_bytes().decode()
    assert text.count("\n") == text.count("\r\n") == 5  # a line each, so that line-based tools work too
    with open(tmp_path / "rejected.csv", newline="") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"bad", "later", "../outside", "good"}
    assert rows["bad"] == {
        "case_id": "bad",
        "path": "x/bad.nii",
        "reason": "nan",
        "message": 'has "NaN", and more',
    }
    write_case(tmp_path, "later", patient_id="q")
    assert writer.finish(listed) == 2
    assert "later" not in (tmp_path / "rejected.csv").read_text()


def test_a_damaged_record_is_named_when_merging(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    record = json.loads(record_file(tmp_path, "a").read_text())
    record["targets"] = 3
    record_file(tmp_path, "a").write_text(json.dumps(record))
    with pytest.raises(AnatoBenchError, match=r"a\.json: is damaged.*delete it"):
        StoreWriter(tmp_path).finish()


def test_a_record_that_another_shard_removes_while_merging_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does the case again, because the mask is another, and merges it then."""
    write_case(tmp_path, "a")
    write_case(tmp_path, "b")
    writer = StoreWriter(tmp_path)
    present = writer._present

    def present_then_removed() -> Any:
        names = present()
        record_file(tmp_path, "b").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(writer, "_present", present_then_removed)
    assert writer.finish() == 1
    assert [case.case_id for case in Store.open(tmp_path).cases] == ["a"]


def test_a_record_of_an_older_store_is_read(make_noise_store: MakeStore) -> None:
    store = make_noise_store(1)
    entry = store.cases[0].to_json()
    del entry["reading"]
    assert StoredCase.from_json(entry) == store.cases[0]
    del entry["mask_checksum"]
    assert StoredCase.from_json(entry) == store.cases[0]
    with pytest.raises(ValueError, match="missing or unknown"):
        StoredCase.from_json(entry | {"mask_sum": None})


def test_a_record_that_appears_while_merging_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards finish at once: whoever writes the index last must have everything."""
    write_case(tmp_path, "a")
    writer = StoreWriter(tmp_path)
    merge = writer._merge

    def merge_while_another_shard_writes(*arguments: Any) -> None:
        merge(*arguments)
        if not record_file(tmp_path, "b").exists():
            write_case(tmp_path, "b")

    monkeypatch.setattr(writer, "_merge", merge_while_another_shard_writes)
    assert writer.finish() == 2
    assert [case.case_id for case in Store.open(tmp_path).cases] == ["a", "b"]


@pytest.mark.parametrize("field", ["byte_size", "targets"])
def test_a_record_with_a_number_beyond_all_is_damaged(tmp_path: Path, field: str) -> None:
    write_case(tmp_path, "a")
    path, writer = record_file(tmp_path, "a"), StoreWriter(tmp_path)
    value = [float("inf")] if field == "targets" else float("inf")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert writer.finished("a") is None
    with pytest.raises(AnatoBenchError, match=r"a\.json: is damaged.*delete it"):
        writer.finish()
    (tmp_path / "index.json").write_text(json.dumps({"cases": [json.loads(path.read_text())]}))
    with pytest.raises(AnatoBenchError, match=r"index\.json: is damaged"):
        Store.read_index(tmp_path)


@pytest.mark.parametrize(
    ("field", "part", "value"), [("geometry", "padded_size", [1e999] * 3), ("task", "window", [0, 10**400])]
)
def test_a_description_with_a_number_beyond_all_is_damaged(
    tmp_path: Path, field: str, part: str, value: object
) -> None:
    write_case(tmp_path, "a")
    path = tmp_path / "store.json"
    description = json.loads(path.read_text())
    description[field][part] = value
    path.write_text(json.dumps(description))
    with pytest.raises(AnatoBenchError, match=r"store\.json: is damaged"):
        Store.open(tmp_path)
