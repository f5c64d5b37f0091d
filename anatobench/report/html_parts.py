"""What every page is made of: one self-contained HTML file, sections, tables."""

from __future__ import annotations

import html
from collections.abc import Sequence

STYLESHEET = """
:root { color-scheme: light; --ink: #1c2126; --soft: #5b6670; --line: #dde2e7; --paper: #fff; --wash: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } .pass { color: #14713d; } .fail { color: #b3261e; font-weight: 600; }
details { background: var(--wash); border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem;
  margin: .5rem 0; } pre { overflow-x: auto; font-size: .8rem; margin: .5rem 0; } summary { cursor: pointer; }
"""


def html_page(title: str, sections: Sequence[str]) -> str:
    """A whole page; empty sections are left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLESHEET}</style></head>\n<body>\n"
        + "\n".join(part for part in sections if part)
        + "\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading and what stands under it; nothing for an empty body."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways on a narrow screen."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
