"""Links of README and of every page lead somewhere, and the site has every page."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import PAGES, REPOSITORY, anchors, links, name


def broken(page: Path) -> list[str]:
    """Return the links of a page whose file or heading does not exist; addresses of the web are not asked."""
    found = []
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (path and REPOSITORY not in target.parents):
            found.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            found.append(f"{link}: no such heading; there are {', '.join(sorted(anchors(target)))}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading: of `two` words\n\n[x](missing.md) [y](#a-heading) [z](#a-heading-of-two-words)\n")
    assert [link.split(":")[0] for link in broken(page)] == ["missing.md", "#a-heading"]


def test_readme_names_every_page() -> None:
    readme = REPOSITORY / "README.md"
    linked = {(readme.parent / link.partition("#")[0]).resolve() for link in links(readme)}
    assert not [name(page) for page in PAGES if page != readme and page not in linked]


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 180


def test_the_site_has_every_page_once() -> None:
    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]

    def paths(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [path for one in inner for path in paths(one)]

    listed = paths(navigation)
    assert len(listed) == len(set(listed))
    assert set(listed) >= {page.name for page in PAGES if page.parent.name == "docs"}
