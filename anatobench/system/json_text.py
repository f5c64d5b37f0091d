"""JSON that somebody else may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from anatobench.errors import AnatoBenchError

MAX_BYTES = 64 << 20
"""No memory is taken for a larger file."""
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, whose only error is ValueError: also for text nested deeper than the interpreter follows."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_bytes(data: Any) -> bytes:
    """Return data as it is written to a file; ValueError for what JSON cannot hold, such as NaN."""
    return (json.dumps(data, allow_nan=False, indent=1) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a file's content; `AnatoBenchError` names it if it is missing, unreadable, too large or no JSON."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise AnatoBenchError(f"{path}: more than {MAX_BYTES} bytes: is it the right file?")
        return parse_json(content)
    except OSError as error:
        raise AnatoBenchError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise AnatoBenchError(f"{path}: is no JSON ({error})") from None


def typed_fields(kind: type, data: object, prefix: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass that a JSON object gives, a whole number made float where one is asked for.

    ValueError names, after `prefix`, a field that is unknown, is missing and has no default, or has another type than
    its annotation's plain ones; fields of other types are left to the caller.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{prefix.removesuffix('.') or 'the whole'} must be an object of fields, not {data!r:.80}")
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"{', '.join(prefix + name for name in unknown)}: no such field")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    types = get_type_hints(kind)
    return {name: _typed(f"{prefix}{name}", value, types[name]) for name, value in data.items()}


def _typed(name: str, value: Any, annotation: Any) -> Any:
    allowed = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if not set(allowed) <= set(_KINDS):
        return value
    if float in allowed and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if type(value) in allowed and type(value) is not float:  # a bool is no whole number
        return value
    raise ValueError(f"{name} must be {' or '.join(_KINDS[each] for each in allowed)}, not {value!r:.80}")
