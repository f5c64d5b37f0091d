"""What makes a site of pages that are written to be read in the repository: mkdocs calls these by name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results/README.md": "records.md",
}
"""Pages that stand outside of docs/, and what they are called on the site."""
_SOURCES = {page: source for source, page in OUTSIDE.items()}
_PIECES = re.compile(r"^```.*?^```$|`[^`\n]+`|(?P<text>!?\[(?:[^\]]|\n)*?\])\((?P<link>[^)\s]+)\)", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links of the site."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, page: str) -> str:
    """Return a page's text with the site's links; what is no page of the site keeps its text alone."""
    folder = (ROOT / _SOURCES.get(page, f"docs/{page}")).parent

    def rewritten(match: re.Match[str]) -> str:
        text, link = match["text"], match["link"]
        if text is None or re.match(r"[a-z]+:|#", link):
            return match[0]
        path, _, anchor = link.partition("#")
        target = os.path.relpath((folder / path).resolve(), ROOT)
        if target in OUTSIDE:
            target = OUTSIDE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif (ROOT / target).exists():
            return str(text[1:-1])
        return f"{text}({target}{'#' if anchor else ''}{anchor})"

    return _PIECES.sub(rewritten, markdown)
