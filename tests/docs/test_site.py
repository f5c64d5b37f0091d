"""The site builds without a broken link, needs no network, and fits a telephone on light and dark screens."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import REPOSITORY
from headless_chromium import needs_chromium, visit

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(REPOSITORY, tmp_path_factory.mktemp("site") / "site")


def build(repository: Path, target: Path) -> Path:
    """Build strictly; `CalledProcessError` names what is broken."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
    return target


def test_every_page_is_there_and_leads_to_others(site: Path) -> None:
    front = (site / "index.html").read_text()
    assert 'href="cluster.html"' in front
    assert 'href="records.html#aims-and-where-they-stand"' in front
    assert 'src="overview.svg"' in front
    assert "docs/" not in "".join(part.split('"')[0] for part in front.split('href="')[1:])


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml"):
        shutil.copy(REPOSITORY / name, copy / name)
    shutil.copytree(REPOSITORY / "docs", copy / "docs")
    (copy / "benchmarks" / "results").mkdir(parents=True)
    shutil.copy(REPOSITORY / "benchmarks" / "results" / "README.md", copy / "benchmarks" / "results" / "README.md")
    (copy / "docs" / "glossary.md").write_text("# Glossary\n\n[a page](nowhere.md)\n")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        build(copy, tmp_path / "site")
    assert "nowhere.md" in failure.value.stderr


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("page", ["index.html", "benchmarks.html"])
def test_pages_fit_the_screen(site: Path, tmp_path: Path, page: str, width: int, scheme: str) -> None:
    seen = visit(site / page, tmp_path / "profile", width, scheme=scheme)
    assert [request for request in seen.requests if not request.startswith("file:")] == []
    # A page opened from a disk may not search: browsers start no worker there.
    assert [complaint for complaint in seen.complaints if "search/worker.js" not in complaint] == []
    assert seen.page_width <= width
    assert seen.broken_images == 0
    assert seen.background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(33, 37, 41)")
