"""README and the pages: their links, their headings and the commands that they print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "benchmarks" / "results" / "README.md",
)
SHELL = ("bash", "sh")
"""Languages of blocks with commands; those in `sh` are docs/cluster.md's, which the virtual cluster runs."""
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    not_run: str | None
    """Why a test does not run it, as the comment before it says."""

    @property
    def commands(self) -> list[str]:
        """Lines with comments and continuations taken away; what a here-document holds is no command."""
        text = re.sub(r"<<(\w+)\n.*?^\1$", "", self.text.replace("\\\n", " "), flags=re.M | re.S)
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
        return [part.strip() for line in lines if line for part in line.split(" && ")]


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return [
        Block(page, match["language"], match["text"], match["reason"]) for match in _FENCE.finditer(page.read_text())
    ]


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures, outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    # A link's text may be code and may be broken over lines: the target is what counts.
    return _LINK.findall(re.sub(r"\n", " ", prose))


def anchors(page: Path) -> set[str]:
    """Return the names that headings get: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.*?)#* *$", _FENCE.sub("", page.read_text()), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


def name(page: Path) -> str:
    """Return a page's path in the repository, for messages and names of tests."""
    return str(page.relative_to(REPOSITORY))
