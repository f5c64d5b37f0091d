"""Records of `anatobench bench` as the page of plots needs them. Whatever a record lacks is left out, not guessed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anatobench.bench.arms import WITHOUT_HEAD
from anatobench.errors import AnatoBenchError
from anatobench.experiments.results import FRAMEWORK_NAMES
from anatobench.system.json_text import parse_json

Record = Mapping[str, Any]
FILE_LIMIT = 64 * 2**20
"""Bytes; a record has some thousands."""


@dataclass(frozen=True)
class BenchmarkRecords:
    """Every record of the files given, by kind, in the order of the files."""

    by_kind: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    """Files without a record that this page shows, and why."""

    def of(self, kind: str) -> Sequence[Record]:
        return self.by_kind.get(kind, ())


SHOWN = ("step", "memory", "load", "load_beside_peers", "storage_formats", "prepare", "train", "scaling")


def read_records(paths: Sequence[Path]) -> BenchmarkRecords:
    """Read JSON files, or all `*.json` of folders. `AnatoBenchError` for what is no JSON or if no record is shown."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    by_kind: dict[str, list[Record]] = {}
    skipped = []
    for file in files:
        found = list(_records_in(_read(file)))
        for record in found:
            by_kind.setdefault(record_kind(record), []).append({**record, "file": file.name})
        if not found:
            skipped.append(f"{file.name}: holds no record that this page shows")
    if not by_kind:
        named = ", ".join(str(path) for path in paths)
        raise AnatoBenchError(f"{named}: no record of `anatobench bench ... --json`: give its files or their folder")
    return BenchmarkRecords(by_kind, tuple(skipped))


def record_kind(record: Record) -> str:
    """Return its kind; step records were written without one at first."""
    return str(record.get("kind") or ("step" if "median_s" in record and "framework" in record else ""))


def _records_in(content: Any) -> Iterator[Record]:
    """Yield the record itself, or those anywhere inside a record of several measurements."""
    if isinstance(content, dict) and record_kind(content) in SHOWN:
        yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _records_in(part)


def _read(file: Path) -> Any:
    try:
        if file.stat().st_size > FILE_LIMIT:
            raise AnatoBenchError(f"{file}: larger than {FILE_LIMIT >> 20} MiB, so no benchmark's record")
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AnatoBenchError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise AnatoBenchError(f"{file}: is no JSON") from None
    for said in (text, *text.splitlines()[-1:]):  # the last line of a log is what --json printed
        with suppress(ValueError):
            return parse_json(said)
    raise AnatoBenchError(f"{file}: is no JSON")


def step_arms(record: Record) -> list[Record]:
    """Return every configuration that a record timed, with the device of all of them."""
    arms = ({"device": record.get("device"), **arm} for arm in record.get("arms") or [record])
    return [arm for arm in arms if isinstance(arm.get("median_s"), int | float)]


def device_name(record: Record) -> str:
    """Return the device, or the processor where there is none."""
    device = record.get("device") or {}
    host = record.get("host") or record.get("machine") or {}
    name = str(device.get("name") or "")
    return str(host.get("cpu") or name or "unknown") if device.get("kind") != "gpu" else name


def precision_of(arm: Record) -> str | None:
    """Return what was computed in: tf32 is a way of GPUs alone, on a processor the same program computes in fp32."""
    on_cpu = (arm.get("device") or {}).get("kind") == "cpu"
    return "fp32" if on_cpu and arm.get("precision") == "tf32" else arm.get("precision")


def arm_name(arm: Record) -> str:
    """Return who was timed in one record: framework or peer and precision, without the head or with it."""
    name = str(arm.get("name") or "")
    words = [name.removesuffix(WITHOUT_HEAD) if arm.get("peer") and name else _who(arm), precision_of(arm)]
    return ", ".join(str(word) for word in words if word) + (WITHOUT_HEAD if arm.get("segmentation") is False else "")


def _who(arm: Record) -> str:
    framework = str(arm.get("framework", ""))
    return str(arm["peer"]) if arm.get("peer") else FRAMEWORK_NAMES.get(framework, framework)


def arm_label(arm: Record) -> str:
    """Return who was timed: framework or peer, model, precision, batch, with or without segmentation."""
    batch = f"batch {arm['batch_size']}" if arm.get("batch_size") else ""
    head = "without segmentation" if arm.get("segmentation") is False else ""
    return ", ".join(str(word) for word in (_who(arm), arm.get("model"), precision_of(arm), batch, head) if word)
