"""The page of the experiments grid, from a record made by hand."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from headless_chromium import needs_chromium, visit

from anatobench.experiments.results import TextTable
from anatobench.report.grid_page import build_grid_page

HEADER = ("table", "data set", "model", "weights", "supervision", "framework", "class", "seeds", "AUC, %", "paper, %")


def result(framework: str, name: str, mean: float, published: float | None, spread: float | None) -> dict[str, Any]:
    low, high = (None, None) if spread is None else (mean - spread, mean + spread)
    return {"table": "Table 1", "framework": framework, "class": name, "mean": mean, "low": low, "high": high,
            "published": published}  # fmt: skip


RECORD: dict[str, Any] = {
    "results": [
        result("torch", "macro", 0.71, 0.7975, 0.02),
        result("jax", "macro", 0.72, 0.7975, None),
        result("jax", "liver_high", 0.66, None, None),
    ],
    "missing": ["ratic_mvit_v2_s_scratch_seg_jax_seed0"],
    "undefined": [],
    "versions": {"jax": "0.10"},
}
ROWS = [
    ("Table 1", "ratic", "r3d_18", "scratch", "all <organs>", row["framework"], row["class"], "2",
     f"{100 * row['mean']:.2f}", "79.75 [1]")
    for row in RECORD["results"]
]  # fmt: skip
GAINS = TextTable(("data set", "gain"), [("ratic", "+1.25")])


class Images(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.alts.append(str(dict(attrs)["alt"]))


def page() -> str:
    return build_grid_page(RECORD, TextTable(HEADER, ROWS), GAINS, TextTable(("a",), []), ["a <contradiction>"])


def test_every_number_stands_beside_the_papers() -> None:
    text = page()
    (alt,) = Images(text).alts
    assert alt == (
        "Macro AUC of Table 1, ratic: r3d_18, scratch, all <organs>, PyTorch 71.0; r3d_18, scratch, all "
        "<organs>, JAX 72.0; r3d_18, scratch, all <organs>, paper 79.8"
    )
    before_classes, classes = text.split("<summary>AUC per class</summary>")
    assert "<td>71.00</td>" in before_classes
    assert "<td>72.00</td>" in before_classes
    assert "<td>66.00</td>" not in before_classes, "single classes are folded away"
    assert "<td>66.00</td>" in classes
    assert "[1] a &lt;contradiction&gt;" in text
    assert "left out" not in text
    assert "ratic: synthetic cohort" in build_grid_page(
        {**RECORD, "synthetic": ["ratic"]}, TextTable(HEADER, ROWS), GAINS, TextTable(("a",), []), []
    )
    assert "not evaluated: ratic_mvit_v2_s_scratch_seg_jax_seed0" in text
    assert "JAX minus PyTorch" not in text, "a table without rows has no section"


@needs_chromium
def test_it_fits_a_telephone(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page())
    seen = visit(tmp_path / "page.html", tmp_path / "profile", 375)
    assert (seen.requests, seen.complaints, seen.page_width, seen.broken_images) == ([], [], 375, 0)


def test_bytes_of_a_name_that_are_no_text_are_shown_as_such() -> None:
    text = build_grid_page(
        {**RECORD, "missing": ["run_\udcff"]}, TextTable(HEADER, ROWS), GAINS, TextTable(("a",), []), []
    )
    assert b"run_\\udcff" in text.encode()
