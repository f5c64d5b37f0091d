"""What every page is made of: one self-contained HTML file, sections, tables, rows of pictures.

A page follows the reader's choice of a light or a dark screen, and nothing but a table's or listing's own box scrolls
sideways, so it can be read on a telephone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLESHEET = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5b6670; --line: #dde2e7; --paper: #fff; --wash: #f5f7f9;
  --pass: #14713d; --fail: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #343b43; --paper: #14181c; --wash: #1c2228; --pass: #6fcf97;
    --fail: #ff8a80; }
  img.plot, .line { filter: invert(.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, ul.notes { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
ul.notes { padding-left: 1.2rem; color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .6rem 0;
  background: linear-gradient(to right, var(--paper) 50%, transparent) 0 / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 50%, transparent) 100% / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) 0 / 1rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) 100% / 1rem 100% no-repeat scroll; }
.scrolls { display: none; font-size: .82rem; color: var(--soft); margin: -.3rem 0 .6rem; }
@media (max-width: 34rem) { .scrolls.phone { display: block; } }
@media (max-width: 56rem) { .scrolls.tablet { display: block; } } .scrolls.desk { display: block; }
img { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.named td:first-child { white-space: normal; min-width: 8.5rem; } td.prose { white-space: normal; min-width: 11rem; }
th { color: var(--soft); font-weight: 600; } .pass { color: var(--pass); } .fail { color: var(--fail);
  font-weight: 600; }
.pictures { display: grid; gap: .8rem; margin: .6rem 0; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--width, 19rem)), 1fr)); }
figure { margin: 0; } figure img { width: 100%; } figcaption { font-size: .82rem; color: var(--soft);
  line-height: 1.35; margin-top: .2rem; }
img.slice { image-rendering: pixelated; background: #000; }
.notice { border-left: 4px solid var(--fail); background: var(--wash); padding: .5rem .9rem; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--soft); outline-offset: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .4rem 0;
  font-size: .88rem; }
.legend span { display: inline-block; vertical-align: middle; margin-right: .45rem; }
.line { width: 1.8rem; height: 0; border-top: 3px solid; } .line.dashed { border-top-style: dashed; }
.patch { width: .85rem; height: .85rem; border-radius: .15rem; }
details { background: var(--wash); border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem;
  margin: .5rem 0; } pre { overflow-x: auto; font-size: .8rem; margin: .5rem 0; } summary { cursor: pointer; }
"""

LONG_NAME = 16
"""Letters of a first cell from which on it is broken into lines."""
SENTENCE = 36
"""Letters of any other cell from which on it is broken into lines."""
SCREENS = {"desk": 130, "tablet": 90, "phone": 40}
"""Letters of a row that fit a screen, the widest first."""

_DIRECTIONS = {
    mark: f"\\u{mark:04x}" for mark in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Marks that turn the text after them round, and how they are shown instead."""


def html_page(title: str, sections: Mapping[str, str], facts: str = "", remark: str = "", warning: str = "") -> str:
    """Return a whole page, which UTF-8 holds whatever a name is made of: its title, a line of facts, a remark in soft
    ink, a warning that must not be overlooked, and each section that is not empty under its name."""
    said = f"<p>{html.escape(facts)}</p>" if facts else ""
    warned = f'<p class="notice">{html.escape(warning)}</p>' if warning else ""
    parts = [f"<header><h1>{html.escape(title)}</h1>{said}{paragraph(remark)}</header>{warned}"]
    parts += [f"<section><h2>{html.escape(name)}</h2>{body}</section>" for name, body in sections.items() if body]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or a browser asks the server for one
        f"<title>{html.escape(title)}</title><style>{STYLESHEET}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    return page.translate(_DIRECTIONS).encode(errors="backslashreplace").decode()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that scrolls sideways in its own box; nothing for no rows. The box takes the keyboard's focus, so
    that arrows scroll it; a line below says that it scrolls on screens that are narrower than the table."""
    if not rows:
        return ""
    longest = [max(len(row[column]) for row in rows) for column in range(len(header))]
    named, *prose = (letters > (SENTENCE if column else LONG_NAME) for column, letters in enumerate(longest))
    marks = ["", *(' class="prose"' if is_prose else "" for is_prose in prose)]
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = ""
    for row in rows:
        cells = (f"<td{mark}>{html.escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True))
        body += f"<tr>{''.join(cells)}</tr>"
    label = html.escape(f"Table: {header[0]}", quote=True)
    names = ' class="named"' if named else ""
    width = sum(  # in letters; those of a column that is broken into lines take a long name's room
        2 + max(len(title), LONG_NAME if is_broken else letters)
        for title, letters, is_broken in zip(header, longest, (named, *prose), strict=True)
    )
    screen = next((screen for screen, fitting in SCREENS.items() if width > fitting), None)
    scrolls = f'<p class="scrolls {screen}">The table scrolls sideways.</p>' if screen else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{names}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{scrolls}"
    )


def paragraph(*texts: str) -> str:
    """Return remarks in soft ink, a paragraph each; empty ones are left out."""
    return "".join(f'<p class="soft">{html.escape(text)}</p>' for text in texts if text)


def folded(summary: str, body: str, is_open: bool = False) -> str:
    """Return what shows on a click on its summary; nothing for an empty body."""
    shown = " open" if is_open else ""
    return f"<details{shown}><summary>{html.escape(summary)}</summary>{body}</details>" if body else ""


def notes(texts: Sequence[str]) -> str:
    """Remarks as a list, each once; nothing for none."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in dict.fromkeys(texts))
    return f'<ul class="notes">{items}</ul>' if items else ""


def not_there(record: Mapping[str, Any]) -> str:
    """Return the runs that a record of many lacks, folded; nothing where all are there."""
    lines = [f"not evaluated: {name}" for name in record.get("missing", ())]
    lines += [f"AUC undefined: {name}" for name in record.get("undefined", ())]
    return folded(f"{len(lines)} runs", notes(lines))


def pictures(figures: Iterable[str], width_rem: float) -> str:
    """Pictures, or "", in as many columns of at least `width_rem` as the screen has room for; nothing for none."""
    drawn = "".join(figures)
    return f'<div class="pictures" style="--width: {width_rem}rem">{drawn}</div>' if drawn else ""


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return what colours mean: (name, CSS colour, `line`, `line dashed` or `patch`) each."""
    items = "".join(
        f'<li><span class="{kind}" style="{"background" if kind == "patch" else "border-color"}: {colour}"></span>'
        f"{html.escape(name)}</li>"
        for name, colour, kind in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""
