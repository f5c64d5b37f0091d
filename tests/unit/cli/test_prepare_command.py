"""`anatobench prepare` from the outside: exit status, figures, and the same command going on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scan_files import AFFINE, body_voxels, turned, write_nifti_file

from anatobench.cli.main import main
from anatobench.datasets import registry
from anatobench.datasets.case import Listing
from anatobench.datasets.options import ListingOptions
from anatobench.datasets.synthetic import MARK
from anatobench.store.reader import Store, data_file
from anatobench.tasks import GEOMETRIES

ROOT = Path(__file__).parents[3]

MakeCohort = Callable[[int], Listing]


@pytest.fixture
def cohort(make_raw_cohort: MakeCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the raw folder of four cases in a data set of its own that knows two options."""
    listing = make_raw_cohort(4)

    def list_cases(root: Path, options: ListingOptions) -> Listing:
        return listing

    known = frozenset({"seed", "mapping", "masks"})
    monkeypatch.setitem(registry.DATASETS, "noise", registry.Dataset(list_cases, known))
    return tmp_path / "raw"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, the last line of stdout as JSON, and stderr."""
    capsys.readouterr()
    status = main(["prepare", "--workers", "0", "--size", "tiny", "--json", *map(str, arguments)])
    out, errors = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else {}, errors


def test_a_cohort_is_prepared_once(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--dataset", "noise", "--raw", cohort, "--store", tmp_path / "store", "--seed", 3)
    status, figures, errors = call(capsys, *arguments)
    assert status == 0
    assert (figures["passed"], figures["prepared"], figures["skipped"], figures["cases_in_store"]) == (True, 4, 0, 4)
    assert figures["rejected"] == {}
    assert figures["volumes_per_second"] == pytest.approx(2 * figures["cases_per_second"], rel=0.01)
    assert "4 cases prepared\n" in errors, "and not a word of what there was none of"
    assert f"{tmp_path / 'store'} holds 4 cases (" in errors
    assert Store.open(tmp_path / "store").options == {"mapping": None, "seed": 3}
    status, figures, said = call(capsys, *arguments, "--verify")
    assert status == 0
    assert (figures["prepared"], figures["skipped"], figures["verified_cases"], figures["damaged"]) == (0, 4, 4, [])
    assert "0 cases prepared, 4 were there already\n" in said
    assert "per second" not in said, "nothing was done whose speed could be told"
    assert "prepare:" not in said, "no bar for nothing to do"


def test_a_store_says_whether_its_cohort_is_synthetic(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--dataset", "noise", "--raw", cohort, "--store", tmp_path / "store")
    assert call(capsys, *arguments)[0] == 0
    assert not Store.open(tmp_path / "store").synthetic
    (cohort / MARK).write_text("{}")  # as `phantom` does
    assert call(capsys, *arguments)[0] == 0, "a store that does not know goes on as it is"
    assert call(capsys, *arguments[:-1], tmp_path / "marked")[0] == 0
    assert Store.open(tmp_path / "marked").synthetic


def test_shards_add_up(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard, total in (("1/3", 1), ("0/3", 3), ("2/3", 4)):
        status, figures, _ = call(
            capsys, "--dataset", "noise", "--raw", cohort, "--store", tmp_path / "store", "--shard", shard
        )
        assert (status, figures["cases_in_store"]) == (0, total)


def test_other_arguments_are_refused_in_one_line(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = tmp_path / "mapping.json"
    mapping.write_text("{}")
    arguments = ("--dataset", "noise", "--raw", cohort, "--store", tmp_path / "store", "--mapping", mapping)
    assert call(capsys, *arguments)[0] == 0
    moved = mapping.rename(tmp_path / "moved.json")
    assert call(capsys, *arguments[:-1], moved)[0] == 0
    moved.write_text('{"a": 1}')
    for changed in (
        (*arguments[:-1], moved),
        (*arguments[:-1], moved, "--seed", 1),
        (*arguments[:-2], "--size", "full"),
    ):
        status, _, errors = call(capsys, *changed)
        assert status == 1
        assert errors.count("\n") == 1
        assert "was prepared with" in errors


def test_nothing_usable_is_a_failure_with_figures(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scan in (cohort / "scans").iterdir():
        scan.write_bytes(scan.read_bytes()[:1000])
    status, figures, errors = call(capsys, "--dataset", "noise", "--raw", cohort, "--store", tmp_path / "store")
    assert status == 1
    assert (figures["passed"], figures["rejected"]) == (False, {"truncated": 4})
    assert "rejected as truncated: 4" in errors
    assert "rejected.csv" in errors


def test_verify_alone_needs_no_raw_data(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "store"
    assert call(capsys, "--dataset", "noise", "--raw", cohort, "--store", root)[0] == 0
    assert call(capsys, "--store", root, "--verify")[:2] == (
        0,
        {"store": str(root), "passed": True, "verified_cases": 4, "damaged": []},
    )
    path = data_file(root, "case_02")
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    status, figures, errors = call(capsys, "--store", root, "--verify")
    assert (status, figures["passed"], len(figures["damaged"])) == (1, False, 1)
    assert str(path) in errors
    # What the message says to do mends it.
    path.unlink()
    assert call(capsys, "--dataset", "noise", "--raw", cohort, "--store", root, "--verify")[0] == 0


@pytest.mark.parametrize(
    "arguments", [["--shard", "3/3"], ["--shard", "x"], ["--workers", "-1"], ["--size", "huge"], []]
)
def test_wrong_arguments_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    raw = ["--dataset", "ratic", "--raw", str(tmp_path)] if arguments else []
    try:
        status = main(["prepare", "--store", str(tmp_path / "store"), *raw, *arguments])
    except SystemExit as exit:
        status = exit.code  # type: ignore[assignment]
    assert status == 2
    assert not (tmp_path / "store").exists()


def test_an_empty_listing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "manifest.csv").write_text("scan,split,label:x\n")
    words = ["--dataset", "manifest", "--anatomy", "chest", "--raw", tmp_path / "raw", "--store", tmp_path / "store"]
    status, figures, said = call(capsys, *words)
    assert (status, figures["cases_in_store"]) == (0, 0)
    assert "holds no case, since the raw data lists none: look at --raw" in said


def test_sizes_are_said_in_voxels_and_millimetres(capsys: pytest.CaptureFixture[str]) -> None:
    """In --help and in the pages, computed from the grids themselves."""
    assert GEOMETRIES["chest"]["tiny"].in_words == "24 x 48 x 48 voxels of 12 x 6 x 6 mm, 288 x 288 x 288 mm in all"
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    pages = {name: " ".join((ROOT / "docs" / name).read_text().split()) for name in ("data.md", "own_cohort.md")}
    for anatomy, sizes in GEOMETRIES.items():
        for geometry in sizes.values():
            assert f"{anatomy} {geometry.in_words}" in told
            voxels, spacing, view = (
                " x ".join(f"{n:g}" for n in three)
                for three in (geometry.crop_size, geometry.spacing, geometry.field_of_view)
            )
            assert f"| {anatomy} | {voxels} | {spacing} | {view} |" in pages["data.md"]
        view = " x ".join(f"{n:g}" for n in sizes["tiny"].field_of_view)
        assert f"{view} mm ({anatomy}" in pages["own_cohort.md"]


def test_a_store_of_scans_that_are_small_in_its_grid_names_the_options_that_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(2):
        write_nifti_file(raw / f"{number}.nii.gz", *turned(body_voxels(seed=number), AFFINE, "RAS"))
    (raw / "manifest.csv").write_text("scan,split,label:x\n0.nii.gz,train,1\n1.nii.gz,test,0\n")
    words = ("--dataset", "manifest", "--anatomy", "chest", "--raw", raw, "--store")
    status, figures, said = call(capsys, *words, tmp_path / "large", "--size", "full")
    assert status == 0
    assert figures["times_its_scans"] < 5, "air is not kept"
    assert figures["share_of_grid"] < 0.02
    assert f"which fill {figures['share_of_grid']:.2g} of 120 x 240 x 240 voxels each" in said
    assert "small scans want a smaller grid (--spacing, --crop)" in said
    _, _, said = call(capsys, *words, tmp_path / "tiny", "--size", "tiny")
    assert "small scans want a smaller grid" in said
    status, figures, said = call(capsys, *words, tmp_path / "small", "--spacing", "3,2,1.5", "--crop", "12,24,24")
    assert status == 0
    assert 1 < figures["times_its_scans"] < 5
    assert figures["share_of_grid"] > 0.2
    assert "times the bytes" not in said
