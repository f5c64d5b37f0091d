"""Which classes a case annotates: from the manifest's column to the store, and what a change of it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scan_files import AFFINE, body_voxels, turned, write_nifti_file

from anatobench.datasets.annotation import classes_of_structures
from anatobench.datasets.case import Listing
from anatobench.datasets.manifest import list_cases
from anatobench.datasets.options import ListingOptions
from anatobench.errors import AnatoBenchError
from anatobench.store.prepare import Summary, prepare
from anatobench.store.reader import INDEX_FILE, Store, record_file
from anatobench.store.writer import StoreWriter
from anatobench.tasks import RATIC, MaskClass

OPTIONS = ListingOptions(task="ratic")
LABELS = "bowel,extravasation,kidney,liver,spleen"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, name in enumerate(("a", "b", "c")):
        write_nifti_file(raw / f"{name}.nii.gz", *turned(body_voxels(seed=number), AFFINE, "LPS"))
    organs = np.zeros((12, 24, 24), np.uint8)
    organs[2:8, 5:12, 2:8], organs[2:8, 5:12, 14:20] = 1, 2  # the liver lies on the patient's right
    write_nifti_file(raw / "mask.nii.gz", *turned(organs, AFFINE, "LPS"))
    return raw


def listed(root: Path, *annotated: str) -> Listing:
    rows = [f"{name}.nii.gz,train,{mask},ratic,{text},,,,," for name, text, mask in
            zip("abc", annotated, ("mask.nii.gz", "mask.nii.gz", ""), strict=True)]  # fmt: skip
    (root / "manifest.csv").write_text("\n".join([f"scan,split,mask,mask_labels,annotated,{LABELS}", *rows]) + "\n")
    return list_cases(root, OPTIONS)


def prepared(root: Path, listing: Listing, name: str = "store") -> tuple[Summary, Store]:
    store = root.parent / name
    summary = prepare(listing, store, "tiny", 0, dataset="manifest", raw_root=root, progress=False)
    return summary, Store.open(store)


def test_the_column_reaches_the_store_and_a_change_costs_no_reading(root: Path) -> None:
    summary, store = prepared(root, listed(root, "liver; spleen", "", ""))
    assert summary.rejected == {}
    assert [store.annotated(index) for index in range(3)] == [(1, 1, 0, 0, 0), (1,) * 5, (0,) * 5]
    summary, store = prepared(root, listed(root, "liver", "", ""))
    assert (summary.prepared, summary.relabelled, summary.skipped) == (0, 1, 2)
    assert store.annotated(0) == (1, 0, 0, 0, 0)


def test_names_that_are_none_and_organs_without_mask_cost_their_cases(root: Path) -> None:
    listing = listed(root, "liver;heart", ";", "liver")
    assert [(one.case_id, one.reason) for one in listing.rejected] == [(i, "bad-annotated") for i in "abc"]
    assert "names of liver, spleen" in listing.rejected[0].message
    assert "no mask" in listing.rejected[2].message


def test_a_union_is_annotated_if_all_of_its_parts_are() -> None:
    parts = {"esophagus", "stomach", "duodenum", "small_bowel", "colon"}
    assert classes_of_structures(RATIC, parts) == ("bowel",)
    assert classes_of_structures(RATIC, parts - {"duodenum"} | {"liver"}) == ("liver",)
    assert classes_of_structures(RATIC, {"bowel", "pancreas"}) == ("bowel",)
    both = replace(RATIC, classes=(MaskClass("kidneys", ("kidney_left", "kidney_right")),))
    assert classes_of_structures(both, {"kidney_left"}) == ()
    assert classes_of_structures(both, {"kidney_left", "kidney_right"}) == ("kidneys",)


def test_a_store_older_than_the_field_annotates_every_class_of_a_mask(root: Path) -> None:
    _, store = prepared(root, listed(root, "", "", ""))
    assert "annotated" not in (store.root / INDEX_FILE).read_text()
    assert [store.annotated(index) for index in range(3)] == [(1,) * 5, (1,) * 5, (0,) * 5]


@pytest.mark.parametrize("wrong", [[1, 0], [1, 0, 0, 0, 2]])
def test_a_record_of_other_classes_is_named(root: Path, wrong: list[int]) -> None:
    _, store = prepared(root, listed(root, "liver", "", ""))
    path = record_file(store.root, "a")
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotated": wrong}))
    with pytest.raises(AnatoBenchError, match="annotated"):
        merged_and_opened(store.root)


def merged_and_opened(root: Path) -> Store:
    StoreWriter(root).finish()
    return Store.open(root)
