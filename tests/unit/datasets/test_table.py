import csv
from pathlib import Path

import pytest

from anatobench.datasets.table import MAX_FIELD, read_table
from anatobench.errors import AnatoBenchError


def test_columns_are_found_by_name_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffid, b\nx,1\n\ny,2\n".encode())
    table = read_table(path, ("b", "id"), "advice")
    assert [(row["id"], row["b"], row.line) for row in table.rows] == [("x", "1", 2), ("y", "2", 4)]


def test_rows_of_the_wrong_width_and_repeated_ids_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,b\nx,1\nz\ny,2\nx,3\n")
    table = read_table(path, ("id",), "advice")
    unique, repeated = table.by_id("id")
    assert (sorted(unique), repeated, table.malformed) == (["y"], {"x": [2, 5]}, (3,))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"id\nx\n", "no column b"),
        (b"id,b,b\nx,1,2\n", "column twice"),
        (b"id,b\n\xff\xfe,1\n", "no readable CSV"),
        (b"id,b\nx," + b"9" * (MAX_FIELD + 1) + b"\n", "no readable CSV"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_is_named_with_advice(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    limit = csv.field_size_limit()
    with pytest.raises(AnatoBenchError, match=complaint) as caught:
        read_table(path, ("id", "b"), "download it")
    assert str(path) in str(caught.value)
    assert "download it" in str(caught.value)
    assert csv.field_size_limit() == limit


def test_a_missing_table_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(AnatoBenchError, match=r"t\.csv is missing: download it"):
        read_table(tmp_path / "t.csv", (), "download it")


@pytest.mark.parametrize(
    "line",
    [b'y,"open', b'y,"closed"too early', b"y,\xff\xfe", b"y", b"y,1,2", b"y,\x00", b"y," + b"9" * (MAX_FIELD + 1)],
)
def test_one_row_is_never_the_whole_tables_fault(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'id,b\nx,1\n"over\ntwo",2\n' + line + b"\nz,3\n" + b"".join(b"%d,0\n" % n for n in range(50)))
    table = read_table(path, ("id", "b"), "advice")
    assert table.malformed == (5,) or b"\x00" in line
    assert [(row["id"], row.line) for row in table.rows if not row["id"].isdigit()][:3] == [
        ("x", 2), ("over\ntwo", 4), ("z", 6),
    ] or b"\x00" in line  # fmt: skip
    assert len(table.rows) >= 53


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("a;b\n1;2\n", "utf-8", "semicolons"),
        ("a\tb\n1\t2\n", "utf-8", "tabs"),
        ("a,b\n1,2\n", "utf-16", "UTF-16"),
        ("a,b\n1,2\n", "utf-16-le", "UTF-16"),
    ],
)
def test_what_a_spreadsheet_saves_otherwise_is_named(tmp_path: Path, text: str, encoding: str, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(AnatoBenchError, match=rf"t\.csv .*{said}.*commas, in UTF-8"):
        read_table(path, ("a", "b"), "download it")
