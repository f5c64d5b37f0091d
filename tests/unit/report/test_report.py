"""The report of real runs (of an engine that needs no framework): what it says, and that it stands alone."""

import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from headless_chromium import needs_chromium, visit
from numpy_engine import use_numpy_engines
from safetensors.numpy import load_file, save_file
from tiny_store import write_store

from anatobench.cli.main import main
from anatobench.errors import AnatoBenchError
from anatobench.evaluation.difference import auc_difference
from anatobench.evaluation.worst_cases import most_wrong, worst_case_ids
from anatobench.parity.climb import SUMMARY_KINDS
from anatobench.parity.ladder import KINDS
from anatobench.report.benchmark_plots import number
from anatobench.report.beside_paper import beside_paper, class_table
from anatobench.report.curves import training_dynamics
from anatobench.report.head_difference import head_differences
from anatobench.report.page import build_page
from anatobench.report.plots import line_styles
from anatobench.report.roc import class_curves, macro_curve
from anatobench.report.run_results import read_run, read_runs
from anatobench.report.setting import setting, speed, synthetic_notice
from anatobench.report.summary import HEADER, agreements, summary_rows, text_table
from anatobench.report.worst import worst_cases
from anatobench.tasks import RATIC

PARITY = {"passed": True, "tolerance": 1e-9, "max_rel_error": {"logits": 3e-15, "params": 2e-12, "seg_logits": None}}

ALL = RATIC.class_names


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two frameworks with segmentation from the same weights, and one run without."""
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


@pytest.mark.slow
def test_page_stands_alone_and_says_what_was_measured(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parity.json").write_text("a line for a person\n" + json.dumps(PARITY) + "\n")
    words = ["report", *map(str, runs), "--out", str(tmp_path / "out" / "report.html")]
    assert main([*words, "--parity", str(tmp_path / "parity.json"), "--title", "A <b> & c"]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?://|@import|<script|url\(", text)
    assert all(image["alt"] for image in page.images)
    alts = "\n".join(str(image["alt"]) for image in page.images)
    for shown in ("Classification loss", "Validation AUC", "Gradient norm", "ROC curve of macro average",
                  "ROC curve of any injury", "Reliability of all classes", "the scan alone",
                  "PyTorch, with segmentation predicts over"):  # fmt: skip
        assert shown in alts
    assert "Sharpness" not in alts, "it was not measured"
    assert "ROC curve of bowel healthy" not in alts, "it is bowel injury's mirror"
    assert "A &lt;b&gt; &amp; c" in text
    assert 'name="viewport"' in text

    results = [read_run(run) for run in runs]
    for row in summary_rows(results):
        assert set(row) <= set(page.cells)
    assert "2.0e-12" in page.cells
    assert "seg_logits" not in page.cells, "a rung that was not measured is not shown as passed"
    macro = json.loads((runs[0] / "evaluation_test.json").read_text())["auc"]["macro"]
    assert any(cell.startswith(f"{macro:.3f} [") for cell in page.cells)
    brier = json.loads((runs[0] / "evaluation_test.json").read_text())["brier"]["macro"]
    assert any(cell.startswith(f"{brier:.3f} [") for cell in page.cells)


@pytest.mark.slow
def test_a_runs_name_is_text_and_nothing_else(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of one kind are told apart by their folders' names, everywhere on the page."""
    named = [tmp_path / name for name in ("<script>", "<img onerror=a>")]
    for run in named:
        shutil.copytree(runs[0], run)
    assert main(["report", *map(str, named), "--out", str(tmp_path / "report.html"), "--title", "<script>"]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;" in text.partition("<figcaption>predicted")[2]
    assert "<script" not in text
    assert "<img onerror" not in text


@pytest.mark.slow
def test_a_name_is_no_formula_and_turns_no_text_round(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plot would read between two dollars; a line break, a mark of direction or a byte that is no text misleads."""
    named = [tmp_path / name for name in ("a$b_{$c", "\u202eside\nways", os.fsdecode(b"byte\xe9"))]
    for run in named:
        shutil.copytree(runs[0], run)
    assert main(["report", *map(str, named), "--out", str(tmp_path / "report.html"), "--title", "\udce9"]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in ("a$b_{$c", r"\u202eside\nways", r"byte\udce9"):
        assert said in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_a_failed_ladder_is_not_to_be_overlooked(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_runs_agree_only_if_they_began_alike(runs: list[Path], tmp_path: Path) -> None:
    torch, jax, _ = (read_run(run) for run in runs)
    assert torch.beginning == jax.beginning
    shutil.copytree(runs[1], tmp_path / "jax")
    path = tmp_path / "jax" / "initial.safetensors"
    weights = load_file(path)
    save_file(weights, path, {"came": "from elsewhere"})
    assert len(agreements([torch, read_run(tmp_path / "jax")])) == 1
    weights["fc.bias"] = weights["fc.bias"] + 1e-6
    save_file(weights, path)
    assert agreements([torch, read_run(tmp_path / "jax")]) == []
    path.unlink()
    assert agreements([torch, read_run(tmp_path / "jax")]) == []
    path.write_bytes(b"cut")
    with pytest.raises(AnatoBenchError, match=r"initial\.safetensors: cannot be read"):
        read_run(tmp_path / "jax")


def test_a_pretrained_run_is_called_one(runs: list[Path]) -> None:
    run = read_run(runs[0])
    pretrained = replace(run, config=replace(run.config, size="full", pretrained="a.pth"))
    assert (run.label, pretrained.label) == ("PyTorch, with segmentation", "PyTorch, pretrained, with segmentation")


def test_table_lines_up() -> None:
    lines = text_table(("run", "AUC"), [("a longer name", "0.5"), ("b", "0.75 [0.5, 1.0]")]).splitlines()
    assert len({line.find("0.") for line in lines[2:]}) == 1


def test_results_stand_beside_the_papers_with_its_contradictions(runs: list[Path]) -> None:
    first = read_run(runs[0])
    assert first.test is not None
    full = replace(first, config=replace(first.config, size="full"))
    page = Page(beside_paper([full]))
    assert {f"{first.test['auc']['macro']:.3f}", "0.7975", "Table 1"} <= set(page.cells)
    assert any(cell.startswith("paper's Table 12") for cell in Page(class_table([full])).cells)
    assert "Tr.0" in class_table([full]), "the cell that the scan damaged carries its note"
    swin = replace(first, config=replace(first.config, model="swin3d_t", size="full", pretrained="a.pth"))
    assert "classes average 80.30" in beside_paper([swin])
    assert "tiny model" not in beside_paper([swin])
    for incomparable in (first, replace(full, sessions=({"synthetic": True},))):
        assert "tiny model or synthetic cohort" in beside_paper([incomparable])
        assert not {"0.7975", "Table 1"} & set(Page(beside_paper([incomparable])).cells)
        assert not any("paper" in cell for cell in Page(class_table([incomparable])).cells)
        both = Page(beside_paper([full, replace(incomparable, distinction=", other")])).cells
        assert both.count("0.7975") == 1
    other = replace(first, config=replace(first.config, task=replace(RATIC, name="own")))
    assert beside_paper([other]) == ""


def test_a_page_says_which_weights_were_judged_and_why_a_figure_is_missing(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert run.test is not None
    told = {ALL[0]: "no positive", ALL[1]: "no threshold: no negative in the split that chooses it"}
    page = build_page([replace(run, test={**run.test, "step": 3, "undefined": told})])
    assert f"{run.label} after step 3 of {len(run.steps)}" in page
    for name, reason in told.items():
        assert f"{name} ({reason})" in page


def test_a_reader_learns_how_many_cases_the_figures_rest_on(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert run.test is not None
    assert summary_rows([run])[0][HEADER.index("judged on")] == "12 patients"
    assert "6 of 12" in Page(class_table([run])).cells
    assert "look more certain than they are" in class_table([run])
    one = {**run.test, "rows": 1, "patients": 1, "aggregation": "none", "positives": dict.fromkeys(ALL, 1)}
    fewer = replace(run, test=one)
    assert "1 case" in summary_rows([fewer])[0]
    assert "24 cases of 1 patient" in summary_rows([replace(run, test={**one, "rows": 24})])[0]
    assert "6 of 12; 1 of 7" in Page(class_table([run, fewer])).cells, "the runs were judged on other cases"
    counts = ("rows", "positives", "negatives")
    old = replace(run, test={name: value for name, value in run.test.items() if name not in counts})
    assert summary_rows([old])[0][HEADER.index("judged on")] == "-"
    assert Page(class_table([old])).cells.count("-") == len(ALL)


@pytest.mark.slow
def test_a_reader_learns_where_thresholds_were_chosen(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert run.test is not None
    said = "thresholds chosen by {} on the {} split"
    assert said.format("closest_to_corner", "test") + ", the one that is judged" in build_page([run])
    other = replace(run, test={**run.test, "threshold_rule": "youden", "threshold_split": "validation"})
    assert said.format("youden", "validation") + "." in build_page([other])
    old = replace(run, test={name: value for name, value in run.test.items() if name != "threshold_rule"})
    assert "thresholds chosen by" not in build_page([old])
    assert "<h1>AnatoBench: ratic</h1>" in build_page([old])


def test_what_the_head_changed_is_what_evaluate_prints_of_the_two(runs: list[Path]) -> None:
    torch, jax, plain = (read_run(run) for run in runs)
    assert torch.predictions is not None
    assert plain.predictions is not None
    moved = replace(torch, predictions=replace(torch.predictions, logits=torch.predictions.logits[::-1]))
    found = auc_difference(plain.predictions, moved.predictions or plain.predictions, "mean")
    assert found["difference"]["macro"] > 0
    low, high = found["ci95"]["macro"]
    cells = Page(head_differences([moved, jax, plain])).cells
    assert f"{found['difference']['macro']:+.3f} [{low:+.3f}, {high:+.3f}]" in cells
    assert f"{torch.label} / {plain.label}" in cells
    assert len(cells) == 6, "one pair: JAX's differs in more than the head"
    relabelled = replace(plain.predictions, targets=1 - plain.predictions.targets)
    assert head_differences([torch, replace(plain, predictions=relabelled)]) == ""
    other_seed = replace(plain.config, recipe=replace(plain.config.recipe, seed=5))
    assert head_differences([torch, replace(plain, config=other_seed)]) == ""
    assert head_differences([torch, jax]) == head_differences([torch, replace(plain, predictions=None)]) == ""


def test_what_ran_is_in_sight(runs: list[Path]) -> None:
    first, second = read_run(runs[0]), read_run(runs[1])
    session = {
        "started": "2026-03-04T05:06:07+00:00", "device": {"kind": "gpu", "name": "Card 80GB", "count": 2},
        "cpu": "A processor", "commit": "0123456789abcdef", "dirty": True,
    }  # fmt: skip
    on_gpu = replace(first, sessions=(session, session), distinction=", a")
    on_cpu = replace(second, sessions=({**session, "device": {"kind": "cpu", "name": "x86_64"}, "dirty": False},))
    cells = Page(setting([on_gpu, on_cpu])).cells
    assert {"2 x Card 80GB", "2026-03-04 05:06, resumed once", "0123456789ab with changes"} <= set(cells)
    assert {"A processor", "2026-03-04 05:06", "0123456789ab", "2", "fp32"} <= set(cells)
    assert Page(setting([replace(first, sessions=())])).cells.count("not recorded") == 3, "of an older run"
    assert synthetic_notice([on_gpu]) == ""
    synthetic = replace(on_cpu, sessions=({"synthetic": True},))
    assert "Synthetic cohort: drawn" in synthetic_notice([synthetic])
    assert f"Synthetic cohort ({synthetic.label}): drawn" in synthetic_notice([on_gpu, synthetic])
    assert f"{first.label}: {number(first.median_step_seconds or 0)}" in speed([first])


@pytest.mark.slow
def test_every_rung_of_the_ladder_is_explained(runs: list[Path]) -> None:
    text = build_page([read_run(runs[0])], {**PARITY, "max_rel_error": dict.fromkeys(SUMMARY_KINDS, 1e-15)})
    assert set(SUMMARY_KINDS) <= set(KINDS)
    assert {KINDS[kind] for kind in SUMMARY_KINDS} <= set(Page(text).cells)
    assert "Parity ladder in float32, swin3d_t (full) on ratic, one pass" in build_page(
        [read_run(runs[0])],
        {**PARITY, "dtype": "float32", "model": "swin3d_t", "size": "full", "task": "ratic", "steps": 0},
    )


@pytest.mark.slow
def test_sharpness_is_shown_where_it_was_logged(runs: list[Path]) -> None:
    first = read_run(runs[0])
    sharp = [{"kind": "sharpness", "step": step, "largest_eigenvalue": 40.0 / step} for step in (1, 4)]
    page = training_dynamics([replace(first, sharpness=sharp)])
    assert "Sharpness (largest Hessian eigenvalue) over training steps: PyTorch, with segmentation ends at 10" in page
    assert "was not measured" in training_dynamics([first])


def test_the_macro_curve_has_the_mean_area(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert run.test is not None
    curves = class_curves(run)
    assert curves.keys() == {name for name, auc in run.test["auc"].items() if auc is not None} - {"macro"}
    false_positives, true_positives = macro_curve(list(curves.values()))
    assert (false_positives[0], true_positives[0], false_positives[-1], true_positives[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true_positives, false_positives) == pytest.approx(run.test["auc"]["macro"], abs=0.01)


def test_the_worst_predictions_and_organs_are_named_with_their_slices(runs: list[Path]) -> None:
    run = read_run(runs[0])
    assert run.predictions is not None
    assert run.organ_dice is not None
    assert run.test is not None
    wrong = most_wrong(run.predictions, run.test["thresholds"])
    assert wrong, "a model that was trained for two epochs is wrong somewhere"
    page = worst_cases([run])
    assert f"{wrong[0].probability:.3f}" in Page(page).cells
    shown = worst_case_ids(run.predictions, run.test["thresholds"], run.organ_dice)
    assert {example.case_id for example in run.worst} == set(shown)
    old = replace(run, test={name: value for name, value in run.test.items() if name != "thresholds"})
    assert f"{most_wrong(run.predictions, {})[0].probability:.3f}" in Page(worst_cases([old])).cells
    assert f"with organs: {wrong[0].case_id}: " in page
    assert "low organ Dice" in page
    assert "false alarm" in page or "missed" in page


def test_runs_of_one_label_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "seed"
    shutil.copytree(runs[0], other)
    config = json.loads((other / "config.json").read_text())
    config["recipe"]["seed"] = 7
    del config["checksum"]  # as older versions wrote it
    (other / "config.json").write_text(json.dumps(config))
    labels = [run.label for run in read_runs([runs[0], other])]
    assert labels == ["PyTorch, with segmentation, seed 0", "PyTorch, with segmentation, seed 7"]
    (other / "config.json").write_bytes((runs[0] / "config.json").read_bytes())
    labels = [run.label for run in read_runs([runs[0], other])]
    assert labels == ["PyTorch, with segmentation, torch", "PyTorch, with segmentation, seed"]
    assert len({str(style) for style in line_styles(read_runs([runs[0], other])).values()}) == 2
    with pytest.raises(AnatoBenchError, match="given twice"):
        read_runs([runs[0], runs[0]])


@pytest.mark.parametrize("name", ["evaluation_test.json", "organ_dice_test.csv", "worst_cases_test.safetensors",
                                  "predictions_test.csv"])  # fmt: skip
def test_a_damaged_file_is_named_in_one_line(runs: list[Path], tmp_path: Path, name: str) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(runs[0], damaged)
    (damaged / name).write_bytes((damaged / name).read_bytes()[:40])
    with pytest.raises(AnatoBenchError, match=f"{name}.*again") as error:
        read_run(damaged)
    assert "\n" not in str(error.value)


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_it_on_a_desk_and_on_a_telephone(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ["report", *map(str, runs), "--out", str(page), "--title", "A" * 60]
    assert main(words) == 0
    for width, scheme, background in ((1280, "light", "rgb(255, 255, 255)"), (375, "dark", "rgb(20, 24, 28)")):
        seen = visit(page, tmp_path / "profile", width, scheme=scheme)
        assert seen.requests == []
        assert seen.complaints == []
        assert seen.page_width == width, "nothing but tables in their own boxes is wider than the screen"
        assert seen.broken_images == 0
        assert not seen.scrolls_silently
        assert seen.background == background


@pytest.mark.parametrize(
    ("content", "message"),
    [("not json", "not the output"), ("", "not the output"), ('{"passed": 1}', "not the output")],
)
def test_failures_are_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "parity.json").write_text(content)
    assert main(["report", str(runs[0]), "--parity", str(tmp_path / "parity.json"), "--out", str(tmp_path / "r")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "no run here" in capsys.readouterr().err
