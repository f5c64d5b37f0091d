"""Checks a record against its documented schema: the few words of JSON Schema that the schemas use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[2] / "benchmarks" / "results" / "schemas"
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
KNOWN = {"$schema", "title", "description", "type", "required", "properties", "additionalProperties", "items"}
KNOWN |= {"minItems", "maxItems", "enum", "const", "anyOf"}


def assert_valid(record: Any, kind: str) -> None:
    """Every documented key is there and of its type, and no undocumented one stands at the top."""
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    assert set(record) <= set(schema["properties"])
    faults = list(_faults(record, schema, kind))
    assert not faults, faults


def _faults(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    assert set(schema) <= KNOWN, f"{where}: this check does not know {set(schema) - KNOWN}"
    if "anyOf" in schema:
        return [] if any(not _faults(value, option, where) for option in schema["anyOf"]) else [f"{where}: no option"]
    if "const" in schema and value != schema["const"]:
        return [f"{where}: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r}"]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    right = any(isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)
    if names and not right:
        return [f"{where}: {value!r} is no {names}"]
    faults = []
    if isinstance(value, dict):
        faults += [f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, part in value.items():
            rule = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            faults += _faults(part, rule, f"{where}.{name}") if rule else []
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            faults.append(f"{where}: {len(value)} entries")
        for number, part in enumerate(value):
            faults += _faults(part, schema.get("items", {}), f"{where}[{number}]")
    return faults
