"""Tables and pages in a browser and without one: what is wider than a screen says so."""

import io
import re
from pathlib import Path

import pytest
from headless_chromium import needs_chromium, visit
from matplotlib.image import imread

from anatobench.report.html_parts import html_page, table


@pytest.mark.parametrize(
    ("row", "screen"),
    [
        (("a run", "0.5"), None),
        (("a run's name that is broken into lines", "0.5", "0.6"), None),
        (("a run", "twenty letters of it", "twenty letters of it"), "phone"),
        (("a run", *["twenty letters of it"] * 4), "tablet"),
        (("a run", *["twenty letters of it"] * 7), "desk"),
        (("a run", "a sentence that is broken into lines as it is long"), None),
    ],
)
def test_a_table_that_scrolls_says_so_where_it_does(row: tuple[str, ...], screen: str | None) -> None:
    said = re.findall(r'class="scrolls (\w+)">The table scrolls', table(("x",) * len(row), [row]))
    assert said == ([screen] if screen else [])


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("columns", [2, 3, 4, 5, 6, 8, 10])
def test_a_browser_scrolls_no_table_that_does_not_say_so(tmp_path: Path, columns: int) -> None:
    row = ("a run's name that is long", *["0.512 [0.401, 0.604]"] * (columns - 1))
    page = tmp_path / "page.html"
    page.write_text(html_page("t", {"s": table(("a header",) * columns, [row])}))
    for width in (375, 1280):
        seen = visit(page, tmp_path / "profile", width)
        assert seen.page_width == width
        assert not seen.scrolls_silently


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_only_a_table_that_scrolls_has_a_shadow_at_its_edge(tmp_path: Path, scheme: str) -> None:
    page = tmp_path / "page.html"
    right = {}
    for name, columns in (("fits", 1), ("scrolls", 9)):
        wide = table(("a header",) * columns, [("twenty letters of it",) * columns])
        page.write_text(html_page("t", {}).replace("<header><h1>t</h1></header>", wide))  # the table alone
        seen = visit(page, tmp_path / "profile", 1280, 300, scheme)
        right[name] = imread(io.BytesIO(seen.screenshot))[24:90, 1100:, :3]  # float [H, W, 3]
    paper = right["fits"][0, -1]
    assert (right["fits"] == paper).all()
    above_the_text = slice(12, 15)
    assert (abs(right["scrolls"][above_the_text, 97] - paper) > 0.02).any()


@needs_chromium
@pytest.mark.slow
def test_the_browser_would_have_told(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<div style="width: 900px">wide</div><img src="http://localhost:9/a.png"><img src="data:image/png;base64,AA">'
        "<script>throw new Error('x')</script>"
    )
    seen = visit(page, tmp_path / "profile", 375)
    assert seen.requests == ["http://localhost:9/a.png"]
    assert any("Uncaught" in complaint for complaint in seen.complaints)
    assert seen.page_width > 375
    assert seen.broken_images == 2


@pytest.mark.parametrize("mark", "\u061c\u200e\u200f\u202a\u202e\u2066\u2069")
def test_marks_of_direction_are_seen_on_every_page(mark: str) -> None:
    """A device's name, a version or a finding could turn the figures beside it round."""
    page = html_page(f"a{mark}", {"s": f"<p>b{mark}</p>"})
    assert mark not in page
    assert page.count(f"\\u{ord(mark):04x}") == 3, "in the tab's title, the heading and the section"
