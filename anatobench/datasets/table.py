"""CSV tables as other people wrote them: read by column name, bounded, with line numbers for complaints."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anatobench.errors import AnatoBenchError

MAX_BYTES = 256 << 20
MEMORY_MULTIPLE = 72
"""Bytes of memory per byte of a table, at most: a table of the shortest rows there are; 10 for usual ones."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_FIELD = 1 << 20
"""Characters; reports in a column beside the labels may be long."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    line: int
    """As an editor counts, from 1 (the header)."""
    fields: tuple[str, ...]
    columns: dict[str, int]

    def __getitem__(self, column: str) -> str:
        return self.fields[self.columns[column]].strip()

    def get(self, column: str) -> str:
        """Return the field, or an empty text where the table has no such column."""
        return self[column] if column in self.columns else ""


@dataclass(frozen=True)
class Table:
    """A CSV file in memory."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    malformed: tuple[int, ...]
    """Lines with another number of fields than the header, broken quotes or bytes; they are not in `rows`."""

    def by_id(self, column: str) -> tuple[dict[str, Row], dict[str, list[int]]]:
        """Rows by the id in `column`, and the lines of every id that stands more than once (in no row of the first)."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row[column]].append(row)
        unique = {name: rows[0] for name, rows in found.items() if len(rows) == 1}
        repeated = {name: [row.line for row in rows] for name, rows in found.items() if len(rows) > 1}
        return unique, repeated


def read_table(path: Path, required: Iterable[str], advice: str, separator: str = ",") -> Table:
    """Read a CSV file with a header.

    Raises `AnatoBenchError` with `advice` if the file is missing, too large, no CSV, or lacks required columns.
    """
    if not path.is_file():
        raise AnatoBenchError(f"{path} is missing: {advice}")
    if path.stat().st_size > MAX_BYTES:
        raise AnatoBenchError(f"{path} has more than {MAX_BYTES} bytes, which no table of this kind has: {advice}")
    previous_limit = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return _parse(path, file, tuple(required), advice, separator)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise AnatoBenchError(f"{path} is no readable CSV file ({error}): {advice}") from error
    finally:
        csv.field_size_limit(previous_limit)


def _parse(path: Path, file: Iterator[str], required: Sequence[str], advice: str, separator: str) -> Table:
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    header = tuple(name.strip() for name in next(reader, []))
    missing = [name for name in required if name not in header]
    if missing:
        if why := _other_table(header):
            raise AnatoBenchError(f"{path} {why}: save it as CSV with commas, in UTF-8")
        other = {name.casefold(): name for name in header}
        if spelt := [f"{other[name]!r} as {name!r}" for name in missing if name in other]:
            raise AnatoBenchError(f"{path} has no column {', '.join(missing)}: write {', '.join(spelt)}")
        shown = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
        raise AnatoBenchError(f"{path} has no column {shown}: {advice}")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise AnatoBenchError(f"{path} has a column twice ({', '.join(repeated[:6])}): {advice}")
    columns = {name: index for index, name in enumerate(header)}
    rows: list[Row] = []
    malformed: list[int] = []
    broken: csv.Error | None = None
    while True:
        lines.begin_row()
        try:
            fields = next(reader, None)
        except csv.Error as error:  # of this line alone: an open quote must not swallow those after it
            malformed.append(lines.go_back())
            broken = error
            continue
        if fields is None:
            break
        if not fields:
            continue
        if len(fields) == len(header) and all(map(_is_text, fields)):
            rows.append(Row(lines.number, tuple(fields), columns))
        else:
            malformed.append(lines.number)
            broken = broken or (None if all(map(_is_text, fields)) else csv.Error("bytes that are no UTF-8"))
    if broken is not None and not rows:
        raise broken
    return Table(path, header, tuple(rows), tuple(malformed))


def _other_table(header: Sequence[str]) -> str | None:
    """Return why a header has none of the columns: what spreadsheets save beside CSV with commas in UTF-8."""
    start = ",".join(header)
    if "\0" in start:
        return "is in UTF-16 or no text"
    return next((f"has {name} between its fields" for mark, name in SEPARATORS.items() if mark in start), None)


class _Lines:
    """Lines of a file, to which the parser can go back when a row turns out to be none."""

    def __init__(self, file: Iterator[str]):
        self._file = file
        self._ahead: deque[str] = deque()
        self._row: list[str] = []
        self.number = 0
        """As an editor counts, of the last line that was given out."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._file)
        self._row.append(line)
        self.number += 1
        return line

    def begin_row(self) -> None:
        self._row = []

    def go_back(self) -> int:
        """To the second line of the row; the number of its first."""
        self.number -= len(self._row) - 1
        self._ahead.extendleft(reversed(self._row[1:]))
        return self.number


def _is_text(field: str) -> bool:
    """Return whether a field was whole UTF-8: what was not stands as lone surrogates."""
    return field.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in field)
