"""Masks from many sources, written in their true form and prepared: a file per organ, and a file with a template."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scan_files import NO_SHARED_DATA, SHARED_DATA, turned, write_nifti_file
from scipy.ndimage import gaussian_filter1d

from anatobench.cli.main import main
from anatobench.store.batches import evaluation_batches
from anatobench.store.reader import Store
from anatobench.tasks import RATIC
from anatobench.volumes.mask_templates import CLIP_DRIVEN, TEMPLATES
from anatobench.volumes.nifti import read_nifti_mask
from anatobench.volumes.organs import EITHER_KIDNEY, organ_table, sides_told

SIZE = (80, 60, 80)
AFFINE = np.array([[0.0, 0, -5, 200], [0, -5, 0, 150], [-5, 0, 0, 200], [0, 0, 0, 1]])
BODY = {  # (first, last) voxel of 5 mm: down, back, left
    "liver": ((35, 52), (12, 45), (8, 44)),
    "spleen": ((36, 48), (36, 50), (60, 72)),
    "kidney_right": ((46, 60), (46, 54), (18, 30)),
    "kidney_left": ((48, 60), (46, 54), (50, 58)),
    "stomach": ((36, 46), (10, 24), (48, 62)),
    "duodenum": ((53, 58), (22, 28), (32, 42)),
    "small_bowel": ((60, 72), (12, 34), (26, 54)),
    "colon": ((53, 74), (12, 30), (56, 64)),
    "esophagus": ((20, 34), (40, 43), (38, 41)),
    "liver_tumour": ((40, 46), (20, 28), (14, 24)),
    "kidney_tumour": ((52, 58), (54, 57), (20, 28)),  # behind the right kidney
}
BOWEL = ("stomach", "duodenum", "small_bowel", "colon", "esophagus")
HOUNSFIELD = {"liver": 110, "spleen": 130, "kidney_right": 190, "kidney_left": 190}


def box(structure: str) -> tuple[slice, ...]:
    return tuple(slice(*edges) for edges in BODY[structure])


def middle(structure: str) -> tuple[int, ...]:
    return tuple(sum(edges) // 2 for edges in BODY[structure])


def write_scan(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    voxels = np.full(SIZE, -1000.0)
    voxels[:, 5:58, 4:76] = 10
    for structure in BODY:
        voxels[box(structure)] = HOUNSFIELD.get(structure, 45)
    voxels = gaussian_filter1d(voxels, 2, axis=0) + rng.normal(0, 8, SIZE)
    write_nifti_file(path, *turned(voxels.round().clip(-1024).astype(np.int16), AFFINE, "LPS"))


def write_organ_files(folder: Path, names: dict[str, str], absent: tuple[str, ...] = ()) -> None:
    """`names` is file to structure; what is absent has a file of zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, structure in names.items():
        mask = np.zeros(SIZE, np.uint8)
        if structure not in absent:
            mask[box(structure)] = 1
        write_nifti_file(folder / f"{name}.nii.gz", *turned(mask, AFFINE, "RAS"))


def rejected(store: Path) -> dict[str, dict[str, str]]:
    with open(store / "rejected.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def prepared(raw: Path, dataset: str, *more: str) -> Store:
    store = raw.parent / "store"
    arguments = ["prepare", "--dataset", dataset, "--raw", str(raw), "--store", str(store), "--size", "tiny"]
    main([*arguments, "--task", "ratic", "--workers", "0", *more])
    return Store.open(store)


def organs_of(store: Store, case_id: str) -> np.ndarray:
    index = next(i for i, case in enumerate(store.cases) if case.case_id == case_id)
    return store.read_crop(index, (0, 0, 0), store.geometry.padded_size)[1]


def at(store: Store, case_id: str, structure: str) -> int:
    """Return the organ index in the middle of a structure."""
    case = next(case for case in store.cases if case.case_id == case_id)
    place = np.linalg.solve(np.array(case.affine), AFFINE @ [*middle(structure), 1])[:3].round().astype(int)
    return int(organs_of(store, case_id)[tuple(place)])


def annotated(store: Store) -> dict[str, tuple[int, ...]]:
    return {case.case_id: store.annotated(index) for index, case in enumerate(store.cases)}


ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", *BOWEL)


def test_totalsegmentators_data_set(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number, (name, structures) in enumerate(
        {"s0000": ORGANS, "s0001": ("liver", "colon"), "s0002": ("kidney_left",)}.items()
    ):
        write_scan(raw / name / "ct.nii.gz", number)
        write_organ_files(raw / name / "segmentations", {s: s for s in structures}, absent=("spleen",))
    write_scan(raw / "s0003" / "ct.nii.gz", 3)
    (raw / "s0004").mkdir()
    lines = ["image_id;age;split", "s0000;61;train", "s0001;44;val", "s0002;5;test", "s0003;5;train", "s0004;1;train"]
    (raw / "meta.csv").write_text("\n".join(lines) + "\n")
    store = prepared(raw, "organ_folders")
    assert {case.case_id: case.split for case in store.cases} == {
        "s0000": "train", "s0001": "validation", "s0002": "test", "s0003": "train"
    }  # fmt: skip
    assert annotated(store) == {
        "s0000": (1, 1, 1, 1, 1), "s0001": (1, 0, 0, 0, 0), "s0002": (0, 0, 1, 0, 0), "s0003": (0, 0, 0, 0, 0)
    }  # fmt: skip
    assert [at(store, "s0000", name) for name in ORGANS] == [1, 0, 4, 3, 5, 5, 5, 5, 5]
    assert at(store, "s0001", "liver") == 1
    assert rejected(store.root)["s0004"]["reason"] == "missing-scan"
    with evaluation_batches(store, "train", 2) as batches:
        assert (next(batches)["targets"] == -1).all()


def test_abdomenatlas_calls_some_organs_otherwise(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_scan(raw / "BDMAP_00000001" / "ct.nii.gz", 0)
    names = {name: name for name in ORGANS if name != "small_bowel"} | {"intestine": "small_bowel"}
    folder = raw / "BDMAP_00000001" / "segmentations"
    write_organ_files(folder, names | {"gall_bladder": "duodenum", "liver_tumour": "liver_tumour"})
    store = prepared(raw, "organ_folders")
    assert annotated(store) == {"BDMAP_00000001": (1, 1, 1, 1, 1)}
    assert [at(store, "BDMAP_00000001", name) for name in ("small_bowel", "liver_tumour")] == [5, 1]
    write_organ_files(folder, {"spleen": "spleen"}, absent=("spleen",))  # a file that changed is read again
    assert at(prepared(raw, "organ_folders"), "BDMAP_00000001", "spleen") == 0


def test_files_that_do_not_go_together_cost_their_case(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number, name in enumerate(("labels", "grid", "good")):
        write_scan(raw / name / "ct.nii.gz", number)
        write_organ_files(raw / name / "segmentations", {s: s for s in ("liver", "spleen", "kidney_left")})
    mask = np.zeros(SIZE, np.uint8)
    mask[box("spleen")] = 2
    write_nifti_file(raw / "labels" / "segmentations" / "spleen.nii.gz", *turned(mask, AFFINE, "RAS"))
    moved = AFFINE + np.array([[0, 0, 0, 5.0], *[[0.0] * 4] * 3])
    write_nifti_file(raw / "grid" / "segmentations" / "spleen.nii.gz", *turned(mask // 2, moved, "RAS"))
    store = prepared(raw, "organ_folders")
    assert list(annotated(store)) == ["good"]
    found = {name: row["reason"] for name, row in rejected(store.root).items()}
    assert found == {"labels": "not-binary", "grid": "mask-off-grid"}


def test_an_organ_has_one_file_in_any_spelling_and_no_other_organ_in_it(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    files = {
        "twice": {"small_bowel": "small_bowel", "intestine": "duodenum", "liver": "liver"},
        "covered": {"liver": "liver", "spleen": "liver"},
        "capitals": {"Liver": "liver", "SPLEEN": "spleen"},
    }
    for number, (name, structures) in enumerate(files.items()):
        write_scan(raw / name / "ct.nii.gz", number)
        write_organ_files(raw / name / "segmentations", structures)
    loose = raw / "capitals" / "segmentations" / "Kidney_Left.nii"
    write_nifti_file(loose, *turned(np.zeros(SIZE, np.uint8), AFFINE, "RAS"))
    store = prepared(raw, "organ_folders")
    assert annotated(store) == {"capitals": (1, 1, 1, 0, 0)}
    faults = rejected(store.root)
    assert {name: row["reason"] for name, row in faults.items()} == {
        "twice": "duplicate-organ", "covered": "overlapping-organs"
    }  # fmt: skip
    assert "small_bowel.nii.gz: is of the same organ as intestine.nii.gz" in faults["twice"]["message"]
    assert "spleen.nii.gz: 20196 of its voxels are liver's, too" in faults["covered"]["message"]


def test_organs_that_share_a_border_or_an_inner_structure_go_together(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_scan(raw / "a" / "ct.nii.gz", 0)
    folder = raw / "a" / "segmentations"
    write_organ_files(folder, {name: name for name in ("liver", "liver_tumour", "kidney_right", "kidney_tumour")})
    mask = np.zeros(SIZE, np.uint8)
    mask[box("spleen")] = mask[35:52, 44:45, 8:44] = 1  # of the liver's 33 planes one
    write_nifti_file(folder / "spleen.nii.gz", *turned(mask, AFFINE, "RAS"))
    store = prepared(raw, "organ_folders")
    assert [at(store, "a", name) for name in ("liver", "liver_tumour", "kidney_tumour", "spleen")] == [1, 1, 4, 2]


def test_totalsegmentators_table_names_each_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    write_scan(raw / "s0" / "ct.nii.gz", 0)
    write_organ_files(raw / "s0" / "segmentations", {"liver": "liver"})
    (raw / "meta.csv").write_text("image_id;split\ns0;train\ns1;test\n")
    assert rejected(prepared(raw, "organ_folders").root)["s1"]["reason"] == "missing-scan"
    (raw / "meta.csv").write_text("image_id;split\ns0;train\ns0;test\n")
    words = ["prepare", "--dataset", "organ_folders", "--raw", str(raw), "--store", str(tmp_path / "store")]
    assert main([*words, "--size", "tiny", "--task", "ratic", "--workers", "0"]) == 1
    assert "meta.csv: s0 stands in lines 2, 3: leave one of them" in capsys.readouterr().err


LABEL = {name: label for label, name in CLIP_DRIVEN.items()}


def write_template(path: Path, *structures: str) -> None:
    mask = np.zeros(SIZE, np.uint8)
    for structure in structures:
        mask[box(structure)] = LABEL[structure]
    write_nifti_file(path, *turned(mask, AFFINE, "LPS"))


def test_one_file_with_the_template_of_its_source(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    sources = {
        "lits": ("04", ("liver", "liver_tumour")),
        "kits": ("05", ("kidney_left", "kidney_right", "kidney_tumour")),
        "word": ("07", ORGANS),
        "btcv": ("01_2", ("spleen", "kidney_left", "liver", "stomach", "duodenum", "esophagus")),
        "misfit": ("01_2", ("spleen", "kidney_right", "liver")),
        "flooded": ("04", ("liver", "spleen")),
    }
    rows = ["scan,split,mask,annotated,bowel,extravasation,kidney,liver,spleen"]
    for number, (name, (template, structures)) in enumerate(sources.items()):
        write_scan(raw / f"{name}.nii.gz", number)
        write_template(raw / f"{name}_label.nii.gz", *structures)
        rows.append(f"{name}.nii.gz,train,{name}_label.nii.gz,clip_driven/{template},,,,,")
    (raw / "manifest.csv").write_text("\n".join(rows) + "\n")
    store = prepared(raw, "manifest")
    assert annotated(store) == {
        "btcv": (1, 1, 1, 0, 0), "kits": (0, 0, 1, 1, 0), "lits": (1, 0, 0, 0, 0), "word": (1, 1, 1, 1, 1)
    }  # fmt: skip
    assert at(store, "lits", "liver_tumour") == 1
    assert at(store, "kits", "kidney_tumour") == 4
    assert set(np.unique(organs_of(store, "kits"))) == {0, 3, 4}
    assert [at(store, "word", name) for name in ORGANS] == [1, 2, 4, 3, 5, 5, 5, 5, 5]
    faults = rejected(store.root)
    assert {name: row["reason"] for name, row in faults.items()} == dict.fromkeys(
        ("misfit", "flooded"), "template-misfit"
    )
    assert "label 2 (kidney_right), which clip_driven/01_2 does not annotate" in faults["misfit"]["message"]


def test_a_folder_of_masks_with_a_template(tmp_path: Path) -> None:
    raw, masks = tmp_path / "raw", tmp_path / "masks"
    masks.mkdir()
    write_scan(raw / "a.nii.gz", 0)
    write_template(masks / "a.nii.gz", "liver")
    (raw / "manifest.csv").write_text("scan,split,bowel,extravasation,kidney,liver,spleen\na.nii.gz,train,,,,,\n")
    store = prepared(raw, "manifest", "--masks", str(masks), "--mask-labels", "clip_driven/03")
    assert annotated(store) == {"a": (1, 0, 0, 0, 0)}


def test_what_the_mask_does_not_annotate_cannot_be_said_to_be(tmp_path: Path) -> None:
    """It would be taken for absent."""
    raw = tmp_path / "raw"
    write_scan(raw / "a.nii.gz", 0)
    write_template(raw / "liver.nii.gz", "liver")
    write_organ_files(raw / "organs", {"liver": "liver"})
    rows = {
        "no_file": ("organs", "liver;spleen", ""),
        "no_structure": ("liver.nii.gz", "liver;spleen", "clip_driven/04"),
        "two_templates": ("liver.nii.gz", "clip_driven/04", "clip_driven/03"),
        "folder": ("organs", "clip_driven/08", ""),
        "good": ("organs", "liver", ""),
    }
    lines = [f"{name},a.nii.gz,train,{','.join(row)},,,,," for name, row in rows.items()]
    header = "case,scan,split,mask,annotated,mask_labels,bowel,extravasation,kidney,liver,spleen"
    (raw / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")
    store = prepared(raw, "manifest")
    assert annotated(store) == {"good": (1, 0, 0, 0, 0)}
    faults = rejected(store.root)
    assert {row["reason"] for row in faults.values()} == {"bad-annotated"}
    assert "organs: has no file for spleen: take spleen out" in faults["no_file"]["message"]
    assert "line 3: " in faults["no_structure"]["message"]
    assert "which has no structure for spleen" in faults["no_structure"]["message"]
    assert "its files say which organs are annotated" in faults["folder"]["message"]


def test_what_is_annotated_follows_the_manifest_without_reading_again(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_scan(raw / "a.nii.gz", 0)
    write_organ_files(raw / "organs", {"liver": "liver", "spleen": "spleen"})
    header = "scan,split,mask,annotated,bowel,extravasation,kidney,liver,spleen"
    for names, row in (("liver;spleen", (1, 1, 0, 0, 0)), ("liver", (1, 0, 0, 0, 0)), ("", (1, 1, 0, 0, 0))):
        (raw / "manifest.csv").write_text(f"{header}\na.nii.gz,train,organs,{names},,,,,\n")
        assert annotated(prepared(raw, "manifest")) == {"a": row}


def test_a_template_in_the_manifest_holds_for_masks_that_lie_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, masks = tmp_path / "raw", tmp_path / "masks"
    masks.mkdir()
    for name in ("a", "b"):
        write_scan(raw / f"{name}.nii.gz", ord(name))
        write_template(masks / f"{name}.nii.gz", "liver")
    header, row = "scan,split,annotated,bowel,extravasation,kidney,liver,spleen", "nii.gz,train,clip_driven/04,,,,,"
    (raw / "manifest.csv").write_text(f"{header}\na.{row}\nb.{row}\n")
    store = prepared(raw, "manifest", "--masks", str(masks))
    assert annotated(store) == {"a": (1, 0, 0, 0, 0), "b": (1, 0, 0, 0, 0)}
    assert at(store, "a", "liver") == 1
    assert "annotated: liver in 2, spleen in 0" in capsys.readouterr().out
    words = [
        "prepare",
        "--dataset",
        "manifest",
        "--raw",
        str(raw),
        "--store",
        str(tmp_path / "other"),
        "--size",
        "tiny",
    ]
    main([*words, "--task", "ratic", "--workers", "0", "--masks", str(masks), "--mask-labels", "clip_driven/08"])
    assert "bad-annotated" in (tmp_path / "other" / "rejected.csv").read_text()


def test_a_numbering_that_a_template_also_has_is_told_by_anatomy(tmp_path: Path) -> None:
    """The labels of a template, drawn by the numbering of TotalSegmentator, of which 5 is the liver."""
    raw = tmp_path / "raw"
    write_scan(raw / "a.nii.gz", 0)
    mask = np.zeros(SIZE, np.uint8)
    for label, name in ((1, "spleen"), (2, "kidney_right"), (3, "kidney_left"), (5, "liver"), (6, "stomach")):
        mask[box(name)] = label
    write_nifti_file(raw / "mask.nii.gz", *turned(mask, AFFINE, "LPS"))
    header = "scan,split,mask,annotated,bowel,extravasation,kidney,liver,spleen"
    (raw / "manifest.csv").write_text(f"{header}\na.nii.gz,train,mask.nii.gz,clip_driven/15,,,,,\n")
    fault = rejected(prepared(raw, "manifest").root)["a"]
    assert fault["reason"] == "wrong-mask-labels"
    assert "lie where totalsegmentator_v2 has them" in fault["message"]


def test_the_templates_are_of_the_numbering() -> None:
    assert len(CLIP_DRIVEN) == 32
    assert (CLIP_DRIVEN[6], CLIP_DRIVEN[25], CLIP_DRIVEN[32]) == ("liver", "celiac_trunk", "kidney_cyst")
    assert len(TEMPLATES) == 20
    for name, labels in TEMPLATES.items():
        assert set(labels) <= CLIP_DRIVEN.keys(), name
        assert len(set(labels)) == len(labels), name


def test_a_side_is_told_in_millimetres() -> None:
    organs = np.zeros((1, 1, 9), np.uint8)
    organs[0, 0, [0, 8]], organs[0, 0, [3, 6]] = (3, 4), EITHER_KIDNEY
    assert sides_told(organs, (1.0, 1.0, 2.0), RATIC).reshape(-1).tolist() == [3, 0, 0, 3, 0, 0, 4, 0, 4]
    alone = np.where(np.isin(organs, (3, 4)), 0, organs)
    assert sides_told(alone, (1.0, 1.0, 2.0), RATIC).reshape(-1).tolist() == [0, 0, 0, 255, 0, 0, 255, 0, 0]
    deep = np.zeros((5, 1, 3), np.uint8)
    deep[0, 0, 0], deep[4, 0, 1], deep[4, 0, 0] = 3, 4, EITHER_KIDNEY
    deep[0, 0, 2] = EITHER_KIDNEY
    assert sides_told(deep, (1.0, 1.0, 10.0), RATIC)[4, 0, 0] == 3


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=NO_SHARED_DATA)
def test_a_real_mask_split_into_files_is_the_same_case(tmp_path: Path) -> None:
    mask = read_nifti_mask(SHARED_DATA / "ct_small_totalsegmentator.nii.gz")
    raw = tmp_path / "raw"
    folder = raw / "s1" / "segmentations"
    folder.mkdir(parents=True)
    (raw / "s1" / "ct.nii.gz").symlink_to(SHARED_DATA / "ct_small.nii.gz")
    assert mask.names is not None
    from anatobench.volumes.label_maps import TOTALSEGMENTATOR_V2

    for label, name in TOTALSEGMENTATOR_V2.items():
        binary = (mask.labels == label).astype(np.uint8)
        write_nifti_file(folder / f"{name}.nii.gz", *turned(binary, mask.affine, "RAS"))
    store = prepared(raw, "organ_folders")
    assert annotated(store) == {"s1": (1,) * 5}
    table = organ_table(mask, RATIC, "totalsegmentator_v2")
    counts = np.bincount(organs_of(store, "s1").reshape(-1), minlength=6)[1:]
    voxels = np.bincount(table[mask.labels].reshape(-1), minlength=6)[1:]
    share = abs(np.linalg.det(mask.affine[:3, :3])) / (12 * 6 * 6)
    np.testing.assert_allclose(counts, voxels * share, rtol=0.2)
