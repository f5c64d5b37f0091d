"""The record of a benchmark script lies where it was asked for, and is the last line that is printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from anatobench.bench.record_file import add_record_options, hand_out

RECORD = {"kind": "some", "times": [1.5, 2.0]}


@pytest.mark.parametrize("printed", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_a_record_is_written_and_printed_as_asked(
    tmp_path: Path, written: bool, printed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "record.json"
    parser = argparse.ArgumentParser()
    add_record_options(parser)
    words = [*(["--out", str(path)] if written else []), *(["--json"] if printed else [])]
    hand_out(RECORD, parser.parse_args(words))
    assert path.is_file() == written
    assert not written or json.loads(path.read_text()) == RECORD
    assert capsys.readouterr().out == (json.dumps(RECORD) + "\n" if printed else "")
