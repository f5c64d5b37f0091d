"""The page of benchmark records: what is in it, what is left out, and that it needs nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from record_schema import SCHEMAS, assert_valid

from anatobench.cli.main import main
from anatobench.report.benchmark_page import build_benchmark_page
from anatobench.report.benchmark_records import read_records

RESULTS = SCHEMAS.parent
GPU = {"kind": "gpu", "name": "H200 <test>"}
ARM = {"framework": "torch", "median_s": 0.25, "ci95_s": [0.24, 0.26], "precision": "bf16", "device": GPU}
STEP = {
    "kind": "step",
    **ARM,
    "model": "r3d_18",
    "geometry": "chest",
    "size": "full",
    "batch_size": 10,
    "arms": [
        {**ARM, "mfu": 0.31, "mfu_of": "data sheet", "peak_memory_bytes": 3 * 2**30},
        {
            **ARM,
            "framework": "jax",
            "median_s": 0.5,
            "ci95_s": None,
            "segmentation": False,
            "mfu_measured": 0.4,
            "mfu_data_sheet": 0.2,
            "mfu": 0.2,
            "mfu_of": "data sheet",
        },
        {**ARM, "peer": "torchvision:compiled", "median_s": 0.125},
    ],
    "ratios": [
        {"of": "jax without head", "to": "jax", "ratio": 2.0, "ci95": [1.9, 2.1]},
        {"of": "jax without head", "to": "torch", "ratio": 3.0, "ci95": [2.9, 3.1]},
    ],
    "warnings": ["the GPU slowed its clock (<power>)"],
    "machine": {"cpu": "CPU", "environment": {"OMP_NUM_THREADS": "4"}},
}
RATES = {"volumes_per_s": 100.0, "volumes_per_s_ci95": [90.0, 110.0], "volumes_per_s_per_core": 200.0}
RATES["volumes_per_s_per_core_ci95"] = [190.0, 210.0]
HOST = {"cpu": "CPU of the test"}
LOAD = {
    "kind": "load",
    "store": {"crop_size": [96, 192, 192], "training_cases": 1000},
    "batch_size": 10,
    "loaders": [{"workers": 0, **RATES}, {"workers": 2, **RATES, "plain_copies": RATES}],
    "plain_copy": RATES,
    "share_of_plain_copy": {"ratio": 0.8, "ci95": [0.7, 0.9]},
    "volumes_per_s_per_core": 200.0,
    "demand": {"volumes_per_s": 76.0, "source": "given"},
    "memory": {"batches": 10000, "growth_bytes": 2**20, "median_bytes": 2**29},
    "host": HOST,
}
SCALING = {
    "kind": "scaling",
    "framework": "jax",
    "model": "swin3d_t",
    "results": [{"mode": "weak", "processes": n, "efficiency": e} for n, e in ((1, 1.0), (2, 0.9))],
    "prediction": {
        "assumptions": ["links carry <1> GB/s"],
        "predictions": [{"devices": 64, "no_overlap": {"efficiency": 0.7}, "full_overlap": {"efficiency": 0.8}}],
    },
    "host": HOST,
}


class Images(HTMLParser):
    """Alt texts of a page's images, and every address it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "img":
            self.alts.append(given.get("alt") or "")
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]


def page_of(folder: Path, *records: Any) -> str:
    for number, record in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(record))
    return build_benchmark_page(read_records([folder]))


def test_every_figure_is_said_with_its_unit(tmp_path: Path) -> None:
    page = page_of(tmp_path, STEP, LOAD, SCALING)
    images = Images(page)
    alts = "\n".join(images.alts)
    for said in (
        "time of a step in seconds. PyTorch, bf16: 0.25",
        "JAX, bf16 without head: 0.5",
        "torchvision:compiled, bf16: 0.125",
        "model FLOP utilisation in % of the data sheet. PyTorch, bf16: 31",
        "model FLOP utilisation in % of the data sheet. JAX, bf16 without head: 20",
        "model FLOP utilisation in % of a measured matrix product. JAX, bf16 without head: 40",
        "peak memory in GiB. PyTorch, bf16 (device): 3",
        "jax without head / jax: 2 (95 % interval 1.9 to 2.1)",
        "loading in volumes per second. no workers: 100; 2 workers: 100; plain copy",
        "bytes: 100; 2 at once: 100",
        "line at 76: what one device consumes (given)",
        "weak, measured: 1 processes 100 %, 2 processes 90 %",
        "predicted, no overlap: 64 GPUs 70.0 %",
    ):
        assert said in alts
    assert "jax without head / torch" not in alts, "they do not do the same work"
    assert "<h3>r3d_18, chest full, batch 10</h3>" in page
    assert "0.json, OMP_NUM_THREADS=4" in page
    assert all(address.startswith("data:") for address in images.addresses)
    assert "H200 &lt;test&gt;" in page
    assert "Warning: the GPU slowed its clock (&lt;power&gt;)" in page
    assert "H200 <test>" not in page
    assert "links carry &lt;1&gt; GB/s" in page
    assert 'name="viewport"' in page


def test_where_when_and_of_which_code_a_step_was_timed_is_in_sight(tmp_path: Path) -> None:
    told = {"code": {"commit": "0123456789abcdef"}, "started": "2026-03-04T05:06:07+00:00"}
    page = page_of(tmp_path, {**STEP, **told, "device": {"kind": "gpu", "name": "Card 80GB"}})
    assert "Card 80GB, commit 0123456789ab, 2026-03-04" in page
    assert "100 %" not in page, "nothing is beyond the peak"


def test_one_step_record_says_what_it_holds_and_explains_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "same").mkdir()
    arms = [{**ARM, "compile_s": 81.0}, {**ARM, "framework": "jax", "compile_s": 0}]
    page = page_of(tmp_path / "same", {**STEP, "arms": arms, "same_first_loss": True})
    assert "compilation, apart from the steps in seconds. PyTorch, bf16: 81; JAX, bf16: 0" in page
    assert "began with the same loss." in page
    assert "<p>1 record, measured on" in page
    assert "scaling" not in page
    assert "per second and core" not in page
    other = page_of(tmp_path, {**STEP, "same_first_loss": False}, {**STEP, "same_first_loss": None}, SCALING)
    assert "<p>3 records, measured on" in other
    assert other.count("began with different losses") == 1
    assert "began with the same loss" not in other
    assert "compilation, apart" not in other
    assert "Efficiency of weak scaling" in other


def test_a_share_above_100_per_cent_is_explained(tmp_path: Path) -> None:
    arms = [{**ARM, "mfu": 1.15, "mfu_of": "measured matrix product"}, {**ARM, "framework": "jax", "mfu": 0.5}]
    page = page_of(tmp_path, {**STEP, "arms": arms, "device": {"kind": "cpu", "name": "x86_64"}})
    assert "Above 100 % (PyTorch, bf16): the measured matrix product is no limit" in page


def test_no_processor_is_said_to_compute_in_tf32(tmp_path: Path) -> None:
    for kind, said in (("cpu", "PyTorch, fp32"), ("gpu", "PyTorch, tf32")):
        (tmp_path / kind).mkdir()
        arm = {**ARM, "precision": "tf32", "device": {"kind": kind, "name": "it"}}
        alts = Images(page_of(tmp_path / kind, {**STEP, "arms": [arm]})).alts
        assert any(said in alt for alt in alts)


def test_a_record_of_many_parts_is_opened(tmp_path: Path) -> None:
    suite = {"kind": "gpu_suite", "parts": {"step": {"record": STEP}, "failed": {"record": None}}}
    assert "time of a step in seconds" in page_of(tmp_path, suite)


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"framework": "jax", "median_s": 0.1}, {"kind": "something else"})
    assert "time of a step" in page
    assert "peak memory" not in page
    assert "1.json: holds no record that this page shows" in page


@pytest.mark.slow
def test_committed_records_are_as_documented_and_on_the_page(tmp_path: Path) -> None:
    for kind in ("load_beside_peers", "storage_formats"):
        assert_valid(json.loads((RESULTS / f"{kind}.json").read_text()), kind)
    out = tmp_path / "page.html"
    assert main(["report", "--benchmarks", str(RESULTS), "--out", str(out)]) == 0
    assert "monai PersistentDataset" in out.read_text()


@pytest.mark.parametrize(("content", "named"), [("{", "is no JSON"), ("{}", "no record of"), (None, "cannot be read")])
def test_what_is_no_record_is_refused(
    content: str | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_text(content)
    assert main(["report", "--benchmarks", str(file), "--out", str(tmp_path / "page.html")]) == 1
    said = capsys.readouterr().err
    assert named in said
    assert "record.json" in said


def test_outside_the_repository_records_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--benchmarks"]) == 2
    error = capsys.readouterr().err
    assert "name records or their folder, or call it from the repository" in error
    assert error.count("\n") == 1


def test_runs_and_records_are_different_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--benchmarks", str(RESULTS)]) == 2
    assert main(["report"]) == 2
    assert "--benchmarks" in capsys.readouterr().err
