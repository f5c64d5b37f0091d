"""The report of real runs (of an engine that needs no framework): what it says, and that it stands alone."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import use_numpy_engines
from tiny_store import write_store

from anatobench.cli.main import main
from anatobench.report.run_results import read_run
from anatobench.report.slices import ORGAN_COLOURS, OVERLAY_OPACITY, colour_slice
from anatobench.report.summary import agreements, summary_rows, text_table
from anatobench.tasks import RATIC

PARITY = {"passed": True, "tolerance": 1e-9, "max_rel_error": {"logits": 3e-15, "params": 2e-12, "seg_logits": None}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two frameworks with segmentation from the same weights, and one run without."""
    folder = tmp_path_factory.mktemp("report")
    store = write_store(folder / "store", RATIC, {"train": 6, "validation": 6, "test": 12})
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_numpy_engines(monkeypatch)
        common = ["--task", "ratic", "--store", str(store.root), "--model", "r3d_18", "--epochs", "2"]
        common += ["--set", "batch_size=2"]
        for name, options in {
            "torch": ["--framework", "torch"],
            "jax": ["--framework", "jax", "--initial-weights", str(folder / "torch" / "initial.safetensors")],
            "plain": ["--framework", "torch", "--no-seg"],
        }.items():
            assert main(["train", *common, *options, "--out", str(folder / name)]) == 0
            assert main(["evaluate", str(folder / name)]) == 0
    return [folder / name for name in ("torch", "jax", "plain")]


class Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.references += [value for name, value in attrs if name in ("src", "href") and value]
        self._in_cell = tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells.append(data)


def test_page_stands_alone_and_says_what_was_measured(runs: list[Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "parity.json").write_text("a line for a person\n" + json.dumps(PARITY) + "\n")
    words = ["report", *map(str, runs), "--out", str(tmp_path / "out" / "report.html")]
    assert main([*words, "--parity", str(tmp_path / "parity.json"), "--title", "A <b> & c"]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?://|@import|<script|<link", text)
    assert len(page.images) == 3, "curves, ROC plots and slices"
    assert all(image["alt"] for image in page.images)
    assert "A &lt;b&gt; &amp; c" in text
    assert 'name="viewport"' in text

    results = [read_run(run) for run in runs]
    for row in summary_rows(results):
        assert set(row) <= set(page.cells)
    assert "2.0e-12" in page.cells
    assert "seg_logits" not in page.cells, "a rung that was not measured is not shown as passed"
    macro = json.loads((runs[0] / "evaluation_test.json").read_text())["auc"]["macro"]
    assert any(cell.startswith(f"{macro:.3f} [") for cell in page.cells)


def test_a_failed_ladder_is_not_to_be_overlooked(runs: list[Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "parity.json").write_text(json.dumps(PARITY | {"passed": False}))
    words = ["report", str(runs[0]), "--out", str(tmp_path / "report.html"), "--parity", str(tmp_path / "parity.json")]
    assert main(words) == 0
    assert "FAILED" in (tmp_path / "report.html").read_text()


def test_agreement_is_of_runs_that_differ_in_the_framework_alone(runs: list[Path]) -> None:
    torch, jax, plain = (read_run(run) for run in runs)
    (pair,) = agreements([torch, jax, plain])
    assert (pair.first, pair.second) == (torch.label, jax.label)
    assert pair.steps == pair.equal_batches == 6
    assert pair.largest_loss_difference == 0, "the same numpy engine stands behind both names"
    jax.steps[4]["batch_digest"] = "other"
    jax.steps[4]["loss"] *= 1.5
    (pair,) = agreements([torch, jax])
    assert pair.equal_batches == 5
    assert pair.largest_loss_difference == pytest.approx(0.5)


def test_runs_agree_only_if_they_began_alike(runs: list[Path]) -> None:
    def found(first: dict, second: dict) -> int:
        torch, jax, _ = (read_run(run) for run in runs)
        began = {"size": "full", "initial_weights": None}
        pair = [replace(run, config=replace(run.config, **began)) for run in (torch, jax)]
        pair = [replace(run, config=replace(run.config, **how)) for run, how in zip(pair, (first, second), strict=True)]
        return len(agreements(pair))

    assert found({}, {}) == found({"pretrained": "a.pth"}, {"pretrained": "a.pth"}) == 1
    assert found({"pretrained": "a.pth"}, {"initial_weights": "torch/initial.safetensors"}) == 1
    assert found({"pretrained": "a.pth"}, {}) == found({}, {"pretrained": "a.pth"}) == 0
    assert found({"pretrained": "a.pth"}, {"pretrained": "b.pth"}) == 0


def test_a_pretrained_run_is_called_one(runs: list[Path]) -> None:
    run = read_run(runs[0])
    pretrained = replace(run, config=replace(run.config, size="full", pretrained="a.pth"))
    assert (run.label, pretrained.label) == ("PyTorch, with segmentation", "PyTorch, pretrained, with segmentation")


def test_table_lines_up() -> None:
    lines = text_table(("run", "AUC"), [("a longer name", "0.5"), ("b", "0.75 [0.5, 1.0]")]).splitlines()
    assert len({line.find("0.") for line in lines[2:]}) == 1


def test_organs_are_laid_over_the_window() -> None:
    hounsfield = np.array([[-150, 250], [50, 50]])
    organs = np.array([[0, 0], [0, 1]])
    rgb = colour_slice(hounsfield, organs, RATIC)
    np.testing.assert_allclose(rgb[0], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_allclose(rgb[1, 0], 0.5)
    red = int(ORGAN_COLOURS[0][1:3], 16) / 255
    assert rgb[1, 1, 0] == pytest.approx((1 - OVERLAY_OPACITY) * 0.5 + OVERLAY_OPACITY * red)


@pytest.mark.parametrize(
    ("content", "message"),
    [("not json", "not the output"), ("", "not the output"), ('{"passed": 1}', "not the output")],
)
def test_failures_are_one_line(runs: list[Path], tmp_path: Path, capsys, content: str, message: str) -> None:
    (tmp_path / "parity.json").write_text(content)
    assert main(["report", str(runs[0]), "--parity", str(tmp_path / "parity.json"), "--out", str(tmp_path / "r")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "no run here" in capsys.readouterr().err
