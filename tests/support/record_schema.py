"""Checks a benchmark's record against its documented schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SCHEMAS = Path(__file__).parents[2] / "benchmarks" / "results" / "schemas"


def assert_valid(record: Any, kind: str) -> None:
    """Assert that every documented key is there and of its type, and no undocumented one stands at the top."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record, schema)
